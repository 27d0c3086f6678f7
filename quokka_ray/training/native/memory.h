/* What a step works on: the model as it is described to it, and the memory of one sequence. */

#ifndef QUOKKA_MEMORY_H
#define QUOKKA_MEMORY_H

#include "vectors.h"

/* Everything that does not change from step to step; native/step.py has the same list. */
typedef struct {
    int64_t width, layers, heads, head, ffn, tokens, seq_len, taps;
    double eps, head_eps, scale, branch, logit_scale;
    /* Parameters and gradients: embedding, embedding norm, final norm, and for each layer those of
     * `of_layer` below. What a model does not have is NULL. */
    real **parameters, **gradients;
    real *cosine, *sine; /* [head / 2, the longest T] */
} Model;

enum { EMBEDDING, EMBEDDING_NORM, FINAL_NORM, OF_MODEL };
enum { NORM1, CONV, QKV, QK_GAIN, OUT, NORM2, GATE_UP, DOWN, OF_LAYER };

/* What one layer keeps: folded weights, sums of gradients, and activations of one sequence. */
typedef struct {
    real *qkv, *out, *gate_up, *down, *filters;
    real *d_qkv, *d_out, *d_gate_up, *d_down, *d_filters, *d_qk_gain;
    real *normed1, *rate1, *convolved, *z, *turned, *head_rate, *scores, *share, *mixed;
    real *normed2, *rate2, *gates, *opened, *gated;
} Layer;

#define MOST_LAYERS 64

typedef struct {
    Layer layer[MOST_LAYERS];
    real *table, *table_rate, *head, *d_table, *d_head;
    real *sums; /* where the sums of gradients begin; they are cleared together */
    int64_t of_sums;
    real *cosine, *sine, *x, *dx, *dn, *across, *d_gates, *d_gated, *d_mixed, *d_turned, *dz, *line;
    real *square, *square_across, *delta;
    real *chosen, *chosen_normed, *chosen_rate, *logits, *d_chosen, *weights;
    int64_t *places, *targets;
} Memory;

INLINE real *take(real **next, int64_t count) {
    real *taken = *next;
    *next += (count + 63) / 64 * 64;
    return taken;
}

/* Lay everything out from `base` on for sequences of t; return how many numbers that takes. */
static int64_t lay(const Model *model, Memory *m, real *base, int64_t t) {
    real *next = base;
    int64_t d = model->width, wide = padded(d), inner = model->heads * model->head;
    int64_t ffn = model->ffn, tokens = model->tokens, filters = d * model->taps;
    for (int64_t l = 0; l < model->layers; l++) {
        Layer *a = &m->layer[l];
        a->qkv = take(&next, 3 * inner * d);
        a->out = take(&next, d * inner);
        a->gate_up = take(&next, 2 * ffn * d);
        a->down = take(&next, d * ffn);
        a->filters = take(&next, filters);
    }
    m->table = take(&next, (tokens + 1) * wide);
    m->table_rate = take(&next, tokens + 1);
    m->head = take(&next, tokens * d);
    m->sums = next;
    for (int64_t l = 0; l < model->layers; l++) {
        Layer *a = &m->layer[l];
        a->d_qkv = take(&next, 3 * inner * wide);
        a->d_out = take(&next, inner * wide);
        a->d_gate_up = take(&next, 2 * ffn * wide);
        a->d_down = take(&next, ffn * wide);
        a->d_filters = take(&next, filters);
        a->d_qk_gain = take(&next, 2 * model->head * W);
    }
    m->d_table = take(&next, (tokens + 1) * wide);
    m->d_head = take(&next, tokens * wide);
    m->of_sums = next - m->sums;
    for (int64_t l = 0; l < model->layers; l++) {
        Layer *a = &m->layer[l];
        a->normed1 = take(&next, d * t);
        a->rate1 = take(&next, t);
        a->convolved = model->taps ? take(&next, d * t) : a->normed1;
        a->z = take(&next, 3 * inner * t);
        a->turned = take(&next, 2 * inner * t);
        a->head_rate = take(&next, 2 * model->heads * t);
        a->scores = take(&next, model->heads * t * t);
        a->share = take(&next, model->heads * t);
        a->mixed = take(&next, inner * t);
        a->normed2 = take(&next, d * t);
        a->rate2 = take(&next, t);
        a->gates = take(&next, 2 * ffn * t);
        a->opened = take(&next, ffn * t);
        a->gated = take(&next, ffn * t);
    }
    m->cosine = take(&next, model->head / 2 * t);
    m->sine = take(&next, model->head / 2 * t);
    m->x = take(&next, d * t);
    m->dx = take(&next, d * t);
    m->dn = take(&next, d * t);
    m->across = take(&next, wide * t);
    m->d_gates = take(&next, 2 * ffn * t);
    m->d_gated = take(&next, ffn * t);
    m->d_mixed = take(&next, inner * t);
    m->d_turned = take(&next, 2 * inner * t);
    m->dz = take(&next, 3 * inner * t);
    m->line = take(&next, t + 2 * padded(model->taps));
    m->square = take(&next, t * t);
    m->square_across = take(&next, t * t);
    m->delta = take(&next, t);
    m->chosen = take(&next, d * t);
    m->chosen_normed = take(&next, d * t);
    m->chosen_rate = take(&next, t);
    m->logits = take(&next, tokens * t);
    m->d_chosen = take(&next, d * t);
    m->weights = take(&next, t);
    m->places = (int64_t *)take(&next, 2 * t);
    m->targets = (int64_t *)take(&next, 2 * t);
    return next - base;
}

static real **of_layer(real **tensors, int64_t l) {
    return tensors + OF_MODEL + l * OF_LAYER;
}

#endif
