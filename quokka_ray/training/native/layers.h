/* Sub-layers of one sequence, forward and back: the passes between matrix products.
 *
 * An activation is [features, T], a feature a row. The mathematics is that of
 * model/fused_layers.py and model/fused_attention.py, each chain of operations in one pass.
 */

#ifndef QUOKKA_LAYERS_H
#define QUOKKA_LAYERS_H

#include "products.h"

#define WIDEST_HEAD 128

/* n = x * rate, rate = (mean over features of x^2 + eps)^-1/2. */
static void norm(const real *x, real *n, real *rate, int64_t d, int64_t t, real eps) {
    for (int64_t c = 0; c < t; c += W) {
        vec square = all(0);
        for (int64_t f = 0; f < d; f++) {
            vec here = load(x + f * t + c);
            square += here * here;
        }
        vec r = inverse_root(square / (real)d + eps);
        store(rate + c, r);
        for (int64_t f = 0; f < d; f++) store(n + f * t + c, load(x + f * t + c) * r);
    }
}

/* dx += rate * (dn - n * mean(dn * n)). */
static void norm_back(const real *n, const real *rate, const real *dn, real *dx, int64_t d,
                      int64_t t) {
    for (int64_t c = 0; c < t; c += W) {
        vec along = all(0);
        for (int64_t f = 0; f < d; f++) along += load(dn + f * t + c) * load(n + f * t + c);
        along /= (real)d;
        vec r = load(rate + c);
        for (int64_t f = 0; f < d; f++) {
            int64_t at = f * t + c;
            store(dx + at, load(dx + at) + r * (load(dn + at) - load(n + at) * along));
        }
    }
}

/* Copy a row of t numbers between `margin` zeros on either side of `line`. */
INLINE void lay_out(const real *row, real *line, int64_t t, int64_t margin) {
    memset(line, 0, margin * sizeof(real));
    memcpy(line + margin, row, t * sizeof(real));
    memset(line + margin + t, 0, margin * sizeof(real));
}

/* out[f, p] = sum over taps j of filters[f, j] n[f, p + j - width / 2], zeros outside. */
static void convolve(const real *n, const real *filters, real *out, real *line, int64_t d,
                     int64_t t, int64_t width) {
    int64_t middle = width / 2, margin = padded(middle);
    for (int64_t f = 0; f < d; f++) {
        lay_out(n + f * t, line, t, margin);
        for (int64_t c = 0; c < t; c += W) {
            vec sum = all(0);
            for (int64_t j = 0; j < width; j++)
                sum += filters[f * width + j] * load_anywhere(line + margin + c + j - middle);
            store(out + f * t + c, sum);
        }
    }
}

/* Write dn and add to the filters' gradient. */
static void convolve_back(const real *n, const real *filters, const real *dout, real *dn,
                          real *d_filters, real *line, int64_t d, int64_t t, int64_t width) {
    int64_t middle = width / 2, margin = padded(middle);
    for (int64_t f = 0; f < d; f++) {
        lay_out(dout + f * t, line, t, margin);
        for (int64_t c = 0; c < t; c += W) {
            vec sum = all(0);
            for (int64_t j = 0; j < width; j++)
                sum += filters[f * width + j] * load_anywhere(line + margin + c - j + middle);
            store(dn + f * t + c, sum);
        }
        for (int64_t j = 0; j < width; j++) {
            vec sum = all(0);
            for (int64_t c = 0; c < t; c += W)
                sum += load(n + f * t + c) * load_anywhere(line + margin + c - j + middle);
            d_filters[f * width + j] += sum_of(sum);
        }
    }
}

/* Queries or keys of one head, normalised (with a gain), scaled and turned by their positions.
 *
 * z: [head, T]. gain: [head] or NULL. cosine, sine: [head / 2, T]. */
static void turn(const real *z, const real *gain, const real *cosine, const real *sine, real scale,
                 real *turned, real *rate, int64_t head, int64_t t, real eps) {
    for (int64_t c = 0; c < t; c += W) {
        vec r = all(1);
        if (gain) {
            vec square = all(0);
            for (int64_t f = 0; f < head; f++) {
                vec here = load(z + f * t + c);
                square += here * here;
            }
            r = inverse_root(square / (real)head + eps);
            store(rate + c, r);
        }
        r *= scale;
        for (int64_t f = 0; f < head; f += 2) {
            vec even = load(z + f * t + c) * r, odd = load(z + (f + 1) * t + c) * r;
            if (gain) {
                even *= gain[f];
                odd *= gain[f + 1];
            }
            vec along = load(cosine + f / 2 * t + c), up = load(sine + f / 2 * t + c);
            store(turned + f * t + c, even * along - odd * up);
            store(turned + (f + 1) * t + c, even * up + odd * along);
        }
    }
}

/* Write dz from d_turned, and add to the gain's gradient, [head] vectors of W partial sums. */
static void turn_back(const real *z, const real *gain, const real *cosine, const real *sine,
                      real scale, const real *d_turned, const real *rate, real *dz, vec *d_gain,
                      int64_t head, int64_t t) {
    vec x[WIDEST_HEAD], u[WIDEST_HEAD];
    for (int64_t c = 0; c < t; c += W) {
        vec r = gain ? load(rate + c) : all(1), along_x = all(0);
        for (int64_t f = 0; f < head; f += 2) {
            vec even = load(d_turned + f * t + c), odd = load(d_turned + (f + 1) * t + c);
            vec along = load(cosine + f / 2 * t + c), up = load(sine + f / 2 * t + c);
            u[f] = (even * along + odd * up) * scale;
            u[f + 1] = (odd * along - even * up) * scale;
        }
        if (!gain) {
            for (int64_t f = 0; f < head; f++) store(dz + f * t + c, u[f]);
            continue;
        }
        for (int64_t f = 0; f < head; f++) {
            x[f] = load(z + f * t + c) * r;
            vec by_gain = u[f] * x[f];
            d_gain[f] += by_gain;
            along_x += by_gain * gain[f];
            u[f] *= gain[f];
        }
        along_x /= (real)head;
        for (int64_t f = 0; f < head; f++) store(dz + f * t + c, r * (u[f] - x[f] * along_x));
    }
}

/* Mix the values of one head: out [head, T]. scores [T, T] (key, query) and share [T] are kept:
 * exp(score - the query's highest), and one over their sum. */
static void attend(const real *query, const real *key, const real *value, real *scores,
                   real *share, real *out, int64_t head, int64_t t) {
    times_across(key, t, query, t, scores, t, t, t, head, 0);
    for (int64_t c = 0; c < t; c += W) {
        vec highest = load(scores + c), total = all(0);
        for (int64_t j = 1; j < t; j++) highest = greater(load(scores + j * t + c), highest);
        for (int64_t j = 0; j < t; j++) {
            vec e = exponential(load(scores + j * t + c) - highest);
            total += e;
            store(scores + j * t + c, e);
        }
        store(share + c, 1 / total);
    }
    times(value, t, scores, t, out, t, head, t, t, 0);
    for (int64_t f = 0; f < head; f++)
        for (int64_t c = 0; c < t; c += W)
            store(out + f * t + c, load(out + f * t + c) * load(share + c));
}

/* Write the gradients of one head's queries, keys and values from that of its output, which is
 * overwritten. square, square_across: [T, T] to work in. */
static void attend_back(const real *query, const real *key, const real *value, const real *scores,
                        const real *share, const real *out, real *d_out, real *d_query,
                        real *d_key, real *d_value, real *square, real *square_across, real *delta,
                        int64_t head, int64_t t) {
    for (int64_t c = 0; c < t; c += W) {
        vec product = all(0), s = load(share + c);
        for (int64_t f = 0; f < head; f++) {
            vec here = load(d_out + f * t + c) * s;
            product += here * load(out + f * t + c);
            store(d_out + f * t + c, here);
        }
        store(delta + c, product);
    }
    transpose(scores, t, square_across, t, t, t);
    times(d_out, t, square_across, t, d_value, t, head, t, t, 0);
    times_across(value, t, d_out, t, square, t, t, t, head, 0);
    for (int64_t j = 0; j < t; j++)
        for (int64_t c = 0; c < t; c += W) {
            int64_t at = j * t + c;
            store(square + at, load(scores + at) * (load(square + at) - load(delta + c)));
        }
    times(key, t, square, t, d_query, t, head, t, t, 0);
    transpose(square, t, square_across, t, t, t);
    times(query, t, square_across, t, d_key, t, head, t, t, 0);
}

/* gated = silu(gate) * up; the gate's sigmoid is kept. gate_up: [2 * ffn, T]. */
static void gate(const real *gate_up, real *opened, real *gated, int64_t size) {
    for (int64_t i = 0; i < size; i += W) {
        vec g = load(gate_up + i), s = sigmoid(g);
        store(opened + i, s);
        store(gated + i, g * s * load(gate_up + size + i));
    }
}

/* Write d_gate_up [2 * ffn, T] from d_gated. */
static void gate_back(const real *gate_up, const real *opened, const real *gated,
                      const real *d_gated, real *d_gate_up, int64_t size) {
    for (int64_t i = 0; i < size; i += W) {
        vec g = load(gate_up + i), s = load(opened + i), a = load(gated + i), d = load(d_gated + i);
        /* silu' = s + silu (1 - s), so up * silu' = a + s (up - a). */
        store(d_gate_up + i, d * (a + s * (load(gate_up + size + i) - a)));
        store(d_gate_up + size + i, d * g * s);
    }
}

/* Softmax of W columns of logits [K, m] in their place, but for its denominators: write these,
 * and for each column below `count` the cross-entropy of its target. */
INLINE vec soften(real *logits, const int64_t *targets, int64_t count, int64_t m, int64_t tokens,
                  double *losses) {
    vec highest = load(logits), total = all(0), chosen = all(0);
    for (int64_t k = 1; k < tokens; k++) highest = greater(load(logits + k * m), highest);
    int here = count < W ? (int)count : W;
    for (int i = 0; i < here; i++) chosen[i] = logits[targets[i] * m + i];
    for (int64_t k = 0; k < tokens; k++) {
        vec e = exponential(load(logits + k * m) - highest);
        total += e;
        store(logits + k * m, e);
    }
    for (int i = 0; i < here; i++) losses[i] = log((double)total[i]) + highest[i] - chosen[i];
    return total;
}

/* Turn logits [K, m] of m (padded) positions into the gradient of sum(weight * cross-entropy)
 * by them, and return that sum. Positions beyond `count` have weight 0. */
static double cross_entropy(real *logits, const int64_t *targets, const real *weights,
                            int64_t count, int64_t m, int64_t tokens) {
    double loss = 0, losses[W];
    for (int64_t c = 0; c < m; c += W) {
        vec weight = load(weights + c);
        vec share = weight / soften(logits + c, targets + c, count - c, m, tokens, losses);
        for (int64_t k = 0; k < tokens; k++)
            store(logits + k * m + c, load(logits + k * m + c) * share);
        for (int i = 0; i < W && c + i < count; i++) {
            loss += (double)weight[i] * losses[i];
            logits[targets[c + i] * m + c + i] -= weight[i];
        }
    }
    return loss;
}

#endif
