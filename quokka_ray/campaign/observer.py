"""What a campaign tells those who watch it."""

from typing import TYPE_CHECKING, Protocol

from analysis.fitting.fit import Fit
from quokka_ray.campaign.trajectory_state import Record
from quokka_ray.study.trajectory import TrajectoryConfig

if TYPE_CHECKING:
    from quokka_ray.campaign.campaign import Campaign


class Observer(Protocol):
    """Whoever wants to watch a campaign: TensorBoard, the terminal."""

    def planned(self, campaign: "Campaign", trajectory: TrajectoryConfig) -> None:
        """A trajectory was planned."""

    def told(self, campaign: "Campaign", row: Record) -> None:
        """A row was reported: progress, observation, or ended."""

    def refitted(self, campaign: "Campaign", fit: Fit) -> None:
        """The law that is reported was refitted."""
