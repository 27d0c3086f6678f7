/* Matrix products of a tiny model: C = A B or C += A B with everything in a core's caches.
 *
 * B and C have rows of whole vectors; A is read number by number, along its rows or its columns,
 * so that no operand is ever copied into another layout. A tile of C stays in registers while the
 * sum over k runs.
 */

#ifndef QUOKKA_PRODUCTS_H
#define QUOKKA_PRODUCTS_H

#include "vectors.h"

/* R rows and V vectors of C. */
INLINE void tile(int R, int V, const real *a, int64_t of_row, int64_t of_k, const real *b,
                 int64_t ldb, real *c, int64_t ldc, int64_t sum, int add) {
    vec t[8][4]; /* all in registers: R and V are constants wherever this is called from */
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int v = 0; v < V; v++) t[r][v] = all(0);
    for (int64_t k = 0; k < sum; k++) {
        vec line[4];
        UNROLL for (int v = 0; v < V; v++) line[v] = load(b + k * ldb + v * W);
        UNROLL for (int r = 0; r < R; r++) {
            vec factor = all(a[r * of_row + k * of_k]);
            UNROLL for (int v = 0; v < V; v++) t[r][v] += factor * line[v];
        }
    }
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int v = 0; v < V; v++) {
        real *to = c + r * ldc + v * W;
        if (add) t[r][v] += load(to);
        store(to, t[r][v]);
    }
}

/* V vectors of all rows of C, R rows at a time. */
INLINE void strip(int R, int V, int across, const real *a, int64_t lda, const real *b, int64_t ldb,
                  real *c, int64_t ldc, int64_t rows, int64_t sum, int add) {
    int64_t of_row = across ? 1 : lda, of_k = across ? lda : 1, m = 0;
#define TILES(n)                                                                           \
    for (; m + n <= rows; m += n)                                                          \
        tile(n, V, a + m * of_row, of_row, of_k, b, ldb, c + m * ldc, ldc, sum, add)
    TILES(R);
    TILES(4);
    TILES(2);
    TILES(1);
#undef TILES
}

#if defined(__AVX512F__) || defined(__aarch64__)
#define MANY_REGISTERS 1 /* 32: six rows of four vectors, or eight of three */
#else
#define MANY_REGISTERS 0 /* 16 */
#endif

INLINE void product(int across, const real *a, int64_t lda, const real *b, int64_t ldb, real *c,
                    int64_t ldc, int64_t rows, int64_t columns, int64_t sum, int add) {
#define STRIP(R, V)                                                                        \
    do {                                                                                   \
        strip(R, V, across, a, lda, b + n * W, ldb, c + n * W, ldc, rows, sum, add);       \
        n += V;                                                                            \
    } while (0)
    int64_t vectors = columns / W, n = 0;
    /* Fours leave no rest of two where threes would; eight rows are better done in twos. */
    int in_fours = MANY_REGISTERS && vectors % 3 && rows != 8;
    while (n < vectors) {
        int64_t left = vectors - n;
        if (in_fours && left >= 4 && left != 6)
            STRIP(6, 4);
        else if (left >= 3 && left != 4)
            STRIP(MANY_REGISTERS ? 8 : 4, 3);
        else if (left >= 2)
            STRIP(MANY_REGISTERS ? 8 : 4, 2);
        else
            STRIP(8, 1);
    }
#undef STRIP
}

/* C [rows, columns] = A [rows, sum] B [sum, columns], or added to C; columns: whole vectors. */
static void times(const real *a, int64_t lda, const real *b, int64_t ldb, real *c, int64_t ldc,
                  int64_t rows, int64_t columns, int64_t sum, int add) {
    product(0, a, lda, b, ldb, c, ldc, rows, columns, sum, add);
}

/* The same with A given as its transpose [sum, rows]. */
static void times_across(const real *a, int64_t lda, const real *b, int64_t ldb, real *c,
                         int64_t ldc, int64_t rows, int64_t columns, int64_t sum, int add) {
    product(1, a, lda, b, ldb, c, ldc, rows, columns, sum, add);
}

#endif
