/* Numbers in vectors of the machine's own width, by the vector types that GCC and Clang share.
 * Float32, or float64 where DOUBLE is defined. */

#ifndef QUOKKA_VECTORS_H
#define QUOKKA_VECTORS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif

#ifdef DOUBLE
typedef double real;
typedef int64_t whole;
#define SQRT sqrt
#define W (BYTES / 8) /* numbers in a vector */
#else
typedef float real;
typedef int32_t whole;
#define SQRT sqrtf
#define W (BYTES / 4)
#endif

#define PAD 16 /* rows of padded tensors are multiples of this */
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

typedef real vec __attribute__((vector_size(BYTES), may_alias));
typedef real anywhere __attribute__((vector_size(BYTES), aligned(sizeof(real)), may_alias));
typedef whole ivec __attribute__((vector_size(BYTES), may_alias));

INLINE vec load(const real *from) { return *(const vec *)from; }
INLINE vec load_anywhere(const real *from) { return *(const anywhere *)from; }
INLINE void store(real *to, vec x) { *(vec *)to = x; }
INLINE vec all(real x) { return x - (vec){0}; }
INLINE int64_t padded(int64_t n) { return (n + PAD - 1) / PAD * PAD; }

INLINE vec greater(vec a, vec b) {
    ivec of_a = a > b;
    return (vec)((of_a & (ivec)a) | (~of_a & (ivec)b));
}

INLINE real sum_of(vec x) {
    real total = 0;
    UNROLL for (int i = 0; i < W; i++) total += x[i];
    return total;
}

INLINE vec inverse_root(vec x) {
    vec root;
    UNROLL for (int i = 0; i < W; i++) root[i] = SQRT(x[i]);
    return 1 / root;
}

/* exp; in single precision from -87 up, below which it stays at 1e-38. */
INLINE vec exponential(vec x) {
#ifdef DOUBLE
    for (int i = 0; i < W; i++) x[i] = exp(x[i]);
    return x;
#else
    const float rounder = 12582912.0f; /* 1.5 * 2^23: what is added to it is rounded */
    x = greater(all(-87.0f), x);
    vec shifted = x * 1.44269504f + rounder;
    ivec power = (ivec)shifted;
    vec n = shifted - rounder;
    vec r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    /* The minimax polynomial of Cephes' expf. */
    vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    return (vec)((ivec)p + (power << 23));
#endif
}

INLINE vec sigmoid(vec x) { return 1 / (1 + exponential(-x)); }

/* A square block's rows become its columns: elements change places across ever larger distances. */
/* A square block's rows become its columns. Rows of equal distance exchange halves, quarters ...;
 * where the compiler has no shuffles, or for other widths, one number at a time. */
#ifdef __has_builtin
#if __has_builtin(__builtin_shufflevector)
#define HAS_SHUFFLES
#endif
#endif
#define EXCHANGE(distance, low, high)                                          \
    UNROLL for (int i = 0; i < W; i++) if (!(i & (distance))) {                \
        vec a = t[i], b = t[i + (distance)];                                   \
        t[i] = __builtin_shufflevector(a, b, low);                             \
        t[i + (distance)] = __builtin_shufflevector(a, b, high);               \
    }
#define LIST(...) __VA_ARGS__

INLINE void transpose_block(vec t[W]) {
#if W == 16 && defined(HAS_SHUFFLES)
    EXCHANGE(1, LIST(0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30),
             LIST(1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31))
    EXCHANGE(2, LIST(0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29),
             LIST(2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31))
    EXCHANGE(4, LIST(0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27),
             LIST(4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31))
    EXCHANGE(8, LIST(0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23),
             LIST(8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31))
#elif W == 8 && defined(HAS_SHUFFLES)
    EXCHANGE(1, LIST(0, 8, 2, 10, 4, 12, 6, 14), LIST(1, 9, 3, 11, 5, 13, 7, 15))
    EXCHANGE(2, LIST(0, 1, 8, 9, 4, 5, 12, 13), LIST(2, 3, 10, 11, 6, 7, 14, 15))
    EXCHANGE(4, LIST(0, 1, 2, 3, 8, 9, 10, 11), LIST(4, 5, 6, 7, 12, 13, 14, 15))
#else
    for (int i = 0; i < W; i++)
        for (int j = 0; j < i; j++) {
            real kept = t[i][j];
            t[i][j] = t[j][i];
            t[j][i] = kept;
        }
#endif
}

/* to [columns, padded rows] = from [rows, columns] across; columns are a multiple of W, and what
 * pads a row of `to` becomes 0. */
static void transpose(const real *from, int64_t ldf, real *to, int64_t ldt, int64_t rows,
                      int64_t columns) {
    for (int64_t r = 0; r < padded(rows); r += W)
        for (int64_t c = 0; c < columns; c += W) {
            vec t[W];
            UNROLL for (int i = 0; i < W; i++)
                t[i] = r + i < rows ? load(from + (r + i) * ldf + c) : all(0);
            transpose_block(t);
            UNROLL for (int i = 0; i < W; i++) store(to + (c + i) * ldt + r, t[i]);
        }
}

#endif
