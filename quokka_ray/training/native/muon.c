/* Muon: momentum whose update is orthogonalised, for matrices with a short side of a few hundred.
 *
 * A matrix stands upright here, [long side, padded short side]; one that lies is turned going in
 * and coming out. With U the matrix over its norm, an iteration is
 *
 *     G = U^T U,    P = a + b G + c G^2,    U <- U P.
 *
 * All of P and G are polynomials of the first G, so they are symmetric and commute. Products that
 * are symmetric are computed by half. Where the long side is much the longer, U is left alone:
 * G <- P (P G) and Q <- Q P are small, and the update is U Q.
 */

#include "products.h"

#define MUCH_LONGER 1.5

static const double NEWTON_SCHULZ[3] = {3.4445, -4.7750, 2.0315};

/* C [n, padded n] = A B, or A^T B, which is known to be symmetric. */
INLINE void symmetric(int across, const real *a, int64_t lda, const real *b, int64_t ldb, real *c,
                      int64_t n, int64_t sum) {
    int64_t wide = padded(n), column = 0;
#define UPPER(V)                                                                               \
    for (; column + (V) * W <= wide; column += (V) * W) {                                      \
        int64_t rows = column + (V) * W < n ? column + (V) * W : n;                            \
        strip(MANY_REGISTERS ? 8 : 4, V, across, a, lda, b + column, ldb, c + column, wide, rows, sum, 0);          \
    }
    if (wide > 3 * W) {
        UPPER(2);
    }
    UPPER(1);
#undef UPPER
    for (int64_t r = W; r < n; r += W)
        for (int64_t k = 0; k < r; k += W) {
            vec block[W];
            UNROLL for (int i = 0; i < W; i++) block[i] = load(c + (k + i) * wide + r);
            transpose_block(block);
            for (int i = 0; i < W && r + i < n; i++) store(c + (r + i) * wide + k, block[i]);
        }
}

/* a + b G + c G^2 of a matrix G and its square, in the square's place. */
static void quintic(const real *matrix, real *square, int64_t n) {
    int64_t wide = padded(n);
    real b = NEWTON_SCHULZ[1], c = NEWTON_SCHULZ[2];
    for (int64_t i = 0; i < n * wide; i += W)
        store(square + i, b * load(matrix + i) + c * load(square + i));
    for (int64_t i = 0; i < n; i++) square[i * wide + i] += (real)NEWTON_SCHULZ[0];
}

INLINE void exchange(real **a, real **b) {
    real *kept = *a;
    *a = *b;
    *b = kept;
}

/* Numbers that `orthogonalise` needs besides the matrix. */
static int64_t memory_to_orthogonalise(int64_t rows, int64_t columns) {
    return padded(columns) * (rows + 5 * columns);
}

/* Bring the singular values of an upright matrix u [rows, padded columns] near 1; return where
 * the result is: in u itself or in `memory`. */
static real *orthogonalise(real *u, real *memory, int64_t rows, int64_t columns, int64_t iterations) {
    int64_t wide = padded(columns), size = columns * wide;
    real *other = memory, *gram = other + rows * wide, *p = gram + size, *q = p + size;
    real *h = q + size, *next = h + size;
    double square = 0;
    for (int64_t r = 0; r < rows; r++) {
        vec sum = all(0);
        for (int64_t c = 0; c < wide; c += W) {
            vec here = load(u + r * wide + c);
            sum += here * here;
        }
        square += sum_of(sum);
    }
    real norm = SQRT((real)square), scale = 1 / (norm < (real)1e-12 ? (real)1e-12 : norm);
    for (int64_t i = 0; i < rows * wide; i += W) store(u + i, load(u + i) * scale);
    if (rows < MUCH_LONGER * columns) {
        for (int64_t i = 0; i < iterations; i++) {
            symmetric(1, u, wide, u, wide, gram, columns, rows);
            symmetric(0, gram, wide, gram, wide, p, columns, columns);
            quintic(gram, p, columns);
            times(u, wide, p, wide, other, wide, rows, wide, columns, 0);
            exchange(&u, &other);
        }
        return u;
    }
    symmetric(1, u, wide, u, wide, gram, columns, rows);
    for (int64_t i = 0; i < iterations; i++) {
        symmetric(0, gram, wide, gram, wide, p, columns, columns);
        quintic(gram, p, columns);
        if (i + 1 < iterations) {
            symmetric(0, p, wide, gram, wide, h, columns, columns);
            symmetric(0, p, wide, h, wide, gram, columns, columns);
        }
        if (i == 0) {
            exchange(&q, &p);
        } else {
            symmetric(0, p, wide, q, wide, next, columns, columns);
            exchange(&q, &next);
        }
    }
    times(u, wide, q, wide, other, wide, rows, wide, columns, 0);
    return other;
}

typedef struct {
    int64_t parts, rows, columns; /* of one part */
    real *parameter, *gradient, *momentum;
} Matrices;

/* Numbers of memory that `muon` takes for one of these. */
int64_t memory_of_muon(int64_t rows, int64_t columns) {
    int64_t upright = rows > columns ? rows : columns, across = rows + columns - upright;
    return 2 * padded(upright) * padded(across) + memory_to_orthogonalise(upright, across);
}

/* One step of `count` parameters. The update is scaled by sqrt(max(1, rows / columns)). */
void muon(const Matrices *parameters, int64_t count, double lr, double momentum, double decay,
          int64_t iterations, real *memory) {
    real fresh = 1 - momentum, shrink = 1 - lr * decay;
    for (int64_t n = 0; n < count; n++) {
        const Matrices *it = &parameters[n];
        int64_t rows = it->rows, columns = it->columns, size = rows * columns;
        int lies = columns > rows;
        int64_t upright = lies ? columns : rows, across = lies ? rows : columns;
        int64_t wide = padded(across), line = lies ? padded(upright) : wide;
        real *u = memory, *lying = u + padded(upright) * wide;
        real *rest = lying + padded(upright) * wide, *to = lies ? lying : u;
        real step = lr * (lies ? 1 : SQRT((real)rows / columns));
        for (int64_t part = 0; part < it->parts; part++) {
            real *p = it->parameter + part * size, *m = it->momentum + part * size;
            const real *g = it->gradient + part * size;
            memset(to, 0, rows * line * sizeof(real));
            for (int64_t r = 0; r < rows; r++)
                for (int64_t c = 0; c < columns; c++) {
                    int64_t at = r * columns + c;
                    m[at] += fresh * (g[at] - m[at]);
                    to[r * line + c] = m[at] + fresh * (g[at] - m[at]); /* Nesterov's */
                }
            if (lies) transpose(lying, line, u, wide, rows, line);
            real *update = orthogonalise(u, rest, upright, across, iterations);
            if (lies) {
                transpose(update, wide, lying, line, upright, wide);
                update = lying;
            }
            for (int64_t r = 0; r < rows; r++)
                for (int64_t c = 0; c < columns; c++) {
                    int64_t at = r * columns + c;
                    p[at] = shrink * p[at] - step * update[r * line + c];
                }
        }
    }
}
