/* Loss and gradients of a tiny model, sequence after sequence.
 *
 * One sequence goes forward through all layers and back before the next one begins, so that what
 * it leaves for its way back, the weights and their gradients stay in a core's second-level cache.
 * Sums of gradients are [rows, padded d], the model's width along them: of `out` and `down`, which
 * are [d, rows], that is the transpose. So every product that makes one needs [d, T] across alone.
 */

#include "folding.h"
#include "layers.h"

/* Numbers of memory that sequences of t take. */
int64_t memory_of(const Model *model, int64_t t) {
    Memory m;
    return lay(model, &m, (real *)0, t);
}

/* Fill the stream x [d, T] with the table's rows. */
static void embed(const Memory *m, const int64_t *noisy, int64_t d, int64_t t) {
    int64_t wide = padded(d);
    for (int64_t c = 0; c < t; c += W)
        for (int64_t f = 0; f < d; f += W) {
            vec block[W];
            for (int i = 0; i < W; i++) block[i] = load(m->table + noisy[c + i] * wide + f);
            transpose_block(block);
            for (int i = 0; i < W && f + i < d; i++) store(m->x + (f + i) * t + c, block[i]);
        }
}

static void forward(const Model *model, Memory *m, const int64_t *noisy, int64_t t) {
    int64_t d = model->width, head = model->head, inner = model->heads * head, ffn = model->ffn;
    embed(m, noisy, d, t);
    for (int64_t l = 0; l < model->layers; l++) {
        Layer *a = &m->layer[l];
        const real *gain = of_layer(model->parameters, l)[QK_GAIN];
        norm(m->x, a->normed1, a->rate1, d, t, model->eps);
        if (model->taps)
            convolve(a->normed1, a->filters, a->convolved, m->line, d, t, model->taps);
        times(a->qkv, d, a->convolved, t, a->z, t, 3 * inner, t, d, 0);
        for (int64_t h = 0; h < 2 * model->heads; h++) {
            int is_key = h >= model->heads;
            turn(a->z + h * head * t, gain ? gain + is_key * head : 0, m->cosine, m->sine,
                 is_key ? 1 : model->scale, a->turned + h * head * t, a->head_rate + h * t, head, t,
                 model->head_eps);
        }
        for (int64_t h = 0; h < model->heads; h++) {
            int64_t at = h * head * t;
            attend(a->turned + at, a->turned + inner * t + at, a->z + 2 * inner * t + at,
                   a->scores + h * t * t, a->share + h * t, a->mixed + at, head, t);
        }
        times(a->out, inner, a->mixed, t, m->x, t, d, t, inner, 1);
        norm(m->x, a->normed2, a->rate2, d, t, model->eps);
        times(a->gate_up, d, a->normed2, t, a->gates, t, 2 * ffn, t, d, 0);
        gate(a->gates, a->opened, a->gated, ffn * t);
        times(a->down, ffn, a->gated, t, m->x, t, d, t, ffn, 1);
    }
}

/* Take the gradient dx of the last layer's output down to the table's sum. */
static void backward(const Model *model, Memory *m, const int64_t *noisy, int64_t t) {
    int64_t d = model->width, wide = padded(d), head = model->head, inner = model->heads * head;
    int64_t ffn = model->ffn;
    for (int64_t l = model->layers - 1; l >= 0; l--) {
        Layer *a = &m->layer[l];
        const real *gain = of_layer(model->parameters, l)[QK_GAIN];
        transpose(m->dx, t, m->across, wide, d, t);
        times(a->gated, t, m->across, wide, a->d_down, wide, ffn, wide, t, 1);
        times_across(a->down, ffn, m->dx, t, m->d_gated, t, ffn, t, d, 0);
        gate_back(a->gates, a->opened, a->gated, m->d_gated, m->d_gates, ffn * t);
        transpose(a->normed2, t, m->across, wide, d, t);
        times(m->d_gates, t, m->across, wide, a->d_gate_up, wide, 2 * ffn, wide, t, 1);
        times_across(a->gate_up, d, m->d_gates, t, m->dn, t, d, t, 2 * ffn, 0);
        norm_back(a->normed2, a->rate2, m->dn, m->dx, d, t);

        transpose(m->dx, t, m->across, wide, d, t);
        times(a->mixed, t, m->across, wide, a->d_out, wide, inner, wide, t, 1);
        times_across(a->out, inner, m->dx, t, m->d_mixed, t, inner, t, d, 0);
        for (int64_t h = 0; h < model->heads; h++) {
            int64_t at = h * head * t;
            attend_back(a->turned + at, a->turned + inner * t + at, a->z + 2 * inner * t + at,
                        a->scores + h * t * t, a->share + h * t, a->mixed + at, m->d_mixed + at,
                        m->d_turned + at, m->d_turned + inner * t + at, m->dz + 2 * inner * t + at,
                        m->square, m->square_across, m->delta, head, t);
        }
        for (int64_t h = 0; h < 2 * model->heads; h++) {
            int is_key = h >= model->heads;
            turn_back(a->z + h * head * t, gain ? gain + is_key * head : 0, m->cosine, m->sine,
                      is_key ? 1 : model->scale, m->d_turned + h * head * t, a->head_rate + h * t,
                      m->dz + h * head * t, (vec *)a->d_qk_gain + is_key * head, head, t);
        }
        transpose(a->convolved, t, m->across, wide, d, t);
        times(m->dz, t, m->across, wide, a->d_qkv, wide, 3 * inner, wide, t, 1);
        real *dc = model->taps ? m->chosen : m->dn;
        times_across(a->qkv, d, m->dz, t, dc, t, d, t, 3 * inner, 0);
        if (model->taps)
            convolve_back(a->normed1, a->filters, dc, m->dn, a->d_filters, m->line, d, t,
                          model->taps);
        norm_back(a->normed1, a->rate1, m->dn, m->dx, d, t);
    }
    transpose(m->dx, t, m->across, wide, d, t);
    for (int64_t i = 0; i < t; i++)
        for (int64_t f = 0; f < wide; f += W) {
            real *to = m->d_table + noisy[i] * wide + f;
            store(to, load(to) + load(m->across + i * wide + f));
        }
}

/* Write the logits [K, n] of `count` places, n being count padded. */
static void logits_of(const Model *model, Memory *m, int64_t count, int64_t t) {
    int64_t d = model->width, n = padded(count);
    for (int64_t f = 0; f < d; f++) {
        for (int64_t i = 0; i < count; i++) m->chosen[f * n + i] = m->x[f * t + m->places[i]];
        for (int64_t i = count; i < n; i++) m->chosen[f * n + i] = 0;
    }
    norm(m->chosen, m->chosen_normed, m->chosen_rate, d, n, model->eps);
    times(m->head, d, m->chosen_normed, n, m->logits, n, model->tokens, n, d, 0);
}

/* The loss at `count` places of one sequence; dx becomes its gradient. */
static double loss_of(const Model *model, Memory *m, int64_t count, int64_t t) {
    int64_t d = model->width, wide = padded(d), n = padded(count), tokens = model->tokens;
    logits_of(model, m, count, t);
    for (int64_t i = count; i < n; i++) m->weights[i] = 0;
    double loss = cross_entropy(m->logits, m->targets, m->weights, count, n, tokens);
    transpose(m->chosen_normed, n, m->across, wide, d, n);
    times(m->logits, n, m->across, wide, m->d_head, wide, tokens, wide, n, 1);
    times_across(m->head, d, m->logits, n, m->dn, n, d, n, tokens, 0);
    memset(m->d_chosen, 0, d * n * sizeof(real));
    norm_back(m->chosen_normed, m->chosen_rate, m->dn, m->d_chosen, d, n);
    memset(m->dx, 0, d * t * sizeof(real));
    for (int64_t f = 0; f < d; f++)
        for (int64_t i = 0; i < count; i++) m->dx[f * t + m->places[i]] = m->d_chosen[f * n + i];
    return loss;
}

/* Write the noisy tokens of a row, its masked places and their targets; return how many there
 * are. flat: the places of this row and later ones, in the flattened batch. */
static int64_t mask(const Model *model, Memory *m, const int64_t *clean, int64_t *noisy,
                    int64_t row, int64_t t, const int64_t *flat, int64_t left) {
    int64_t count = 0;
    memcpy(noisy, clean + row * t, t * sizeof(int64_t));
    for (; count < left && flat[count] < (row + 1) * t; count++) {
        m->places[count] = flat[count] - row * t;
        m->targets[count] = noisy[m->places[count]];
    }
    for (int64_t i = 0; i < count; i++) noisy[m->places[i]] = model->tokens;
    return count;
}

/* Add the gradients of sum(weight * cross-entropy) / normaliser to `gradients`; return the sum.
 *
 * clean: [rows, t], t a multiple of PAD. flat, weights: `count` masked places of the flattened
 * batch, row by row. noisy: [t] to work in. */
double step(const Model *model, real *memory, const int64_t *clean, int64_t *noisy, int64_t rows,
            int64_t t, const int64_t *flat, const real *weights, int64_t count, double normaliser) {
    Memory m;
    double loss = 0;
    lay(model, &m, memory, t);
    fold(model, &m, t);
    memset(m.sums, 0, m.of_sums * sizeof(real));
    for (int64_t row = 0, done = 0, here; row < rows; row++, done += here) {
        here = mask(model, &m, clean, noisy, row, t, flat + done, count - done);
        if (!here) continue;
        for (int64_t i = 0; i < here; i++) m.weights[i] = weights[done + i] / normaliser;
        forward(model, &m, noisy, t);
        loss += loss_of(model, &m, here, t);
        backward(model, &m, noisy, t);
    }
    unfold(model, &m);
    return loss;
}

/* Write the cross-entropy of each masked place, [count]; the rest as in `step`. */
void losses(const Model *model, real *memory, const int64_t *clean, int64_t *noisy, int64_t rows,
            int64_t t, const int64_t *flat, int64_t count, real *out) {
    Memory m;
    double some[W];
    lay(model, &m, memory, t);
    fold(model, &m, t);
    for (int64_t row = 0, done = 0, here; row < rows; row++, done += here) {
        here = mask(model, &m, clean, noisy, row, t, flat + done, count - done);
        if (!here) continue;
        forward(model, &m, noisy, t);
        logits_of(model, &m, here, t);
        for (int64_t c = 0; c < here; c += W) {
            soften(m.logits + c, m.targets + c, here - c, padded(here), model->tokens, some);
            for (int i = 0; i < W && c + i < here; i++) out[done + c + i] = some[i];
        }
    }
}

/* Write the hidden states [rows, t, d] of noisy tokens [rows, t], t a multiple of PAD. */
void states(const Model *model, real *memory, const int64_t *noisy, int64_t rows, int64_t t,
            real *out) {
    Memory m;
    int64_t d = model->width, wide = padded(d);
    const real *gain = model->parameters[FINAL_NORM];
    lay(model, &m, memory, t);
    fold(model, &m, t);
    for (int64_t row = 0; row < rows; row++) {
        forward(model, &m, noisy + row * t, t);
        norm(m.x, m.chosen, m.chosen_rate, d, t, model->eps);
        transpose(m.chosen, t, m.across, wide, d, t);
        for (int64_t i = 0; i < t; i++)
            for (int64_t j = 0; j < d; j++)
                out[(row * t + i) * d + j] = m.across[i * wide + j] * gain[j];
    }
}
