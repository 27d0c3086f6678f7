/* Gains of norms and the branch's factor go into the matrices beside them, once a call.
 *
 * The matrices are smaller than the activations that they would scale. With W' = W diag(g):
 * dW = dW' diag(g), dg = column sums of dW' * W. Sums of gradients over the sequences are those of
 * folded matrices, and are unfolded at the end.
 */

#ifndef QUOKKA_FOLDING_H
#define QUOKKA_FOLDING_H

#include "memory.h"

static void fold_columns(const real *weight, const real *gain, real by, real *folded, int64_t rows,
                         int64_t d) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < d; j++)
            folded[r * d + j] = weight[r * d + j] * by * (gain ? gain[j] : 1);
}

/* Fold the weights, and normalise the table of embeddings. */
static void fold(const Model *model, Memory *m, int64_t t) {
    int64_t d = model->width, wide = padded(d), inner = model->heads * model->head;
    real **p = model->parameters, *gain = p[EMBEDDING_NORM];
    for (int64_t l = 0; l < model->layers; l++) {
        Layer *a = &m->layer[l];
        real **q = of_layer(p, l);
        fold_columns(q[QKV], model->taps ? 0 : q[NORM1], 1, a->qkv, 3 * inner, d);
        fold_columns(q[OUT], 0, model->branch, a->out, d, inner);
        fold_columns(q[GATE_UP], q[NORM2], 1, a->gate_up, 2 * model->ffn, d);
        fold_columns(q[DOWN], 0, model->branch, a->down, d, model->ffn);
        for (int64_t i = 0; i < d * model->taps; i++)
            a->filters[i] = q[CONV][i] * q[NORM1][i / model->taps];
    }
    fold_columns(p[EMBEDDING], p[FINAL_NORM], model->logit_scale, m->head, model->tokens, d);
    for (int64_t k = 0; k <= model->tokens; k++) {
        const real *row = p[EMBEDDING] + k * d;
        real *to = m->table + k * wide, square = 0, rate = 1;
        if (gain) {
            for (int64_t j = 0; j < d; j++) square += row[j] * row[j];
            rate = 1 / SQRT(square / d + (real)model->eps);
        }
        m->table_rate[k] = rate;
        for (int64_t j = 0; j < d; j++) to[j] = row[j] * rate * (gain ? gain[j] : 1);
        for (int64_t j = d; j < wide; j++) to[j] = 0;
    }
    for (int64_t f = 0; f < model->head / 2; f++) {
        memcpy(m->cosine + f * t, model->cosine + f * model->seq_len, t * sizeof(real));
        memcpy(m->sine + f * t, model->sine + f * model->seq_len, t * sizeof(real));
    }
}

/* Add the gradient of `weight` and `gain` by that of weight * diag(gain) * by, [rows, wide]. */
static void unfold_columns(const real *sum, const real *weight, const real *gain, real by,
                           real *d_weight, real *d_gain, int64_t rows, int64_t d) {
    int64_t wide = padded(d);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < d; j++) {
            real here = sum[r * wide + j] * by;
            d_weight[r * d + j] += gain ? here * gain[j] : here;
            if (gain) d_gain[j] += here * weight[r * d + j];
        }
}

/* Add a sum [columns, wide] to the gradient [d, columns] of a matrix that was folded by `by`. */
static void unfold_across(const real *sum, real by, real *d_weight, int64_t d, int64_t columns) {
    int64_t wide = padded(d);
    for (int64_t r = 0; r < columns; r += W)
        for (int64_t c = 0; c < d; c += W) {
            vec block[W];
            int full = r + W <= columns;
            for (int i = 0; i < W; i++)
                block[i] = r + i < columns ? load(sum + (r + i) * wide + c) : all(0);
            transpose_block(block);
            for (int i = 0; i < W && c + i < d; i++) {
                real *to = d_weight + (c + i) * columns + r;
                if (full)
                    *(anywhere *)to += by * block[i];
                else
                    for (int j = 0; r + j < columns; j++) to[j] += by * block[i][j];
            }
        }
}

/* Add what the sequences have summed to the parameters' gradients. */
static void unfold(const Model *model, const Memory *m) {
    int64_t d = model->width, wide = padded(d), head = model->head, inner = model->heads * head;
    real **p = model->parameters, **g = model->gradients;
    for (int64_t l = 0; l < model->layers; l++) {
        const Layer *a = &m->layer[l];
        real **q = of_layer(p, l), **h = of_layer(g, l);
        real *gain = model->taps ? 0 : q[NORM1];
        unfold_columns(a->d_qkv, q[QKV], gain, 1, h[QKV], h[NORM1], 3 * inner, d);
        unfold_across(a->d_out, model->branch, h[OUT], d, inner);
        unfold_columns(a->d_gate_up, q[GATE_UP], q[NORM2], 1, h[GATE_UP], h[NORM2], 2 * model->ffn,
                       d);
        unfold_across(a->d_down, model->branch, h[DOWN], d, model->ffn);
        for (int64_t i = 0; i < d * model->taps; i++) {
            int64_t f = i / model->taps;
            h[CONV][i] += a->d_filters[i] * q[NORM1][f];
            h[NORM1][f] += a->d_filters[i] * q[CONV][i];
        }
        if (q[QK_GAIN])
            for (int64_t f = 0; f < 2 * head; f++)
                h[QK_GAIN][f] += sum_of(((vec *)a->d_qk_gain)[f]);
    }
    unfold_columns(m->d_head, p[EMBEDDING], p[FINAL_NORM], model->logit_scale, g[EMBEDDING],
                   g[FINAL_NORM], model->tokens, d);
    const real *gain = p[EMBEDDING_NORM];
    for (int64_t k = 0; k <= model->tokens; k++) {
        const real *row = p[EMBEDDING] + k * d, *sum = m->d_table + k * wide;
        real *to = g[EMBEDDING] + k * d, rate = m->table_rate[k], along = 0;
        if (gain)
            for (int64_t j = 0; j < d; j++) {
                real by_gain = sum[j] * row[j] * rate;
                g[EMBEDDING_NORM][j] += by_gain;
                along += by_gain * gain[j];
            }
        along /= d;
        for (int64_t j = 0; j < d; j++)
            to[j] += gain ? rate * (sum[j] * gain[j] - row[j] * rate * along) : sum[j];
    }
}

#endif
