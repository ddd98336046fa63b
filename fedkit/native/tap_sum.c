#include <math.h>

#include "products.h"

/* A lot's clipped sum from what layers tell of its rows; see fedkit.privacy.tap_sum. */

#define TINY 1e-200

/* A part as Python describes it. A product's rows are a [inputs], to which a bias adds a 1, and e [outputs], at every
   apart_a and apart_e floats; of an explicit part, which has no outputs, a are its values. into: int64 [outputs, inputs
   and bias] or [inputs]. */
typedef struct {
  int64_t inputs, bias, outputs, apart_a, apart_e;
  const float *a, *e;
  int64_t *into;
} told;

static double squares(const float *p, long count) {
  d4 sum[4] = {0};
  double rest = 0.0;
  long i = 0;
  for (; i + 16 <= count; i += 16)
    for (int k = 0; k < 4; k++) {
      d4 x = d4_of(p + i + 4 * k);
      sum[k] += x * x;
    }
  for (; i < count; i++) rest += (double)p[i] * p[i];
  d4 all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  return ((all[0] + all[1]) + (all[2] + all[3])) + rest;
}

static long rows_doubles(const told *t) { return up(t->inputs + t->bias, LANES) + up(t->outputs, TILE); }

/* doubles that fedkit_tap_sum needs for so many rows. */
int64_t fedkit_tap_sum_memory(const told *parts, int64_t count, int64_t rows) {
  long most = 0;
  for (long k = 0; k < count; k++) {
    long ins = up(parts[k].inputs + parts[k].bias, LANES), outs = up(parts[k].outputs, TILE);
    long mine = outs ? ins * outs + rows * rows_doubles(parts + k) : ins;
    most = mine > most ? mine : most;
  }
  return most + (count + 1) * rows;
}

/* Whole numbers whose sum is exact in any order. */
static void add_explicit(const told *t, const int64_t *places, const double *factors, long rows, double *sum) {
  memset(sum, 0, t->inputs * sizeof(double));
  for (long r = 0; r < rows; r++) {
    const float *a = t->a + places[r] * t->apart_a;
    double f = factors[r];
    if (isnan(f)) continue;
    for (long i = 0; i < t->inputs; i++) sum[i] += ((a[i] * f) + ROUNDING) - ROUNDING;
  }
}

static void add_product(const told *t, const int64_t *places, const double *factors, const double *sizes, long rows,
                        double unit_u, double unit_v, double *sum) {
  long width = t->inputs + t->bias, ins = up(width, LANES), outs = up(t->outputs, TILE), kept = 0;
  double *u = sum + ins * outs, *v = u + rows * ins;
  for (long r = 0; r < rows; r++) {
    if (isnan(factors[r])) continue;
    const float *a = t->a + places[r] * t->apart_a, *e = t->e + places[r] * t->apart_e;
    double *x = u + kept * ins, *y = v + kept * outs;
    double by = unit_u / fmax(sizes[r], TINY), ey = factors[r] * sizes[r] * unit_v;
    for (long i = 0; i < t->inputs; i++) x[i] = ((a[i] * by) + ROUNDING) - ROUNDING;
    if (t->bias) x[t->inputs] = (by + ROUNDING) - ROUNDING;
    for (long i = width; i < ins; i++) x[i] = 0.0;
    for (long o = 0; o < t->outputs; o++) y[o] = ((e[o] * ey) + ROUNDING) - ROUNDING;
    for (long o = t->outputs; o < outs; o++) y[o] = 0.0;
    kept++;
  }
  memset(sum, 0, ins * outs * sizeof(double));
  outer_sum(v, outs, outs, u, ins, kept, sum);
}

/* Adds the rows at some places of a block to what parts point to, or puts their sum there if they are the first. clip:
   the norm that a row is clipped to; lattice: explicit parts' steps of it; unit_u, unit_v: of a product's factors.
   room: doubles of fedkit_tap_sum_memory. How many rows are counted: those whose norm is finite. */
int64_t fedkit_tap_sum(const told *parts, int64_t count, const int64_t *places, int64_t rows, int64_t first,
                       double clip, double lattice, double unit_u, double unit_v, double *room) {
  double *factors = room, *sizes = room + rows, *sum = room + (count + 1) * rows;
  int64_t kept = 0;
  for (long r = 0; r < rows; r++) {
    double norm = 0.0;
    for (long k = 0; k < count; k++) {
      const told *t = parts + k;
      double of_a = squares(t->a + places[r] * t->apart_a, t->inputs) + t->bias;
      sizes[k * rows + r] = sqrt(of_a);
      norm += t->outputs ? of_a * squares(t->e + places[r] * t->apart_e, t->outputs) : of_a;
    }
    factors[r] = isfinite(norm) ? fmin(1.0 / sqrt(norm), 1.0 / clip) : NAN;
    kept += isfinite(norm) != 0;
  }
  for (long k = 0; k < count; k++) {
    const told *t = parts + k;
    long width = t->inputs + t->bias, ins = up(width, LANES), lines = t->outputs ? t->outputs : 1;
    if (t->outputs) {
      add_product(t, places, factors, sizes + k * rows, rows, unit_u, unit_v, sum);
    } else {
      /* In steps of the lattice; the factors are over the clip. */
      for (long r = 0; r < rows; r++) sizes[k * rows + r] = factors[r] * lattice;
      add_explicit(t, places, sizes + k * rows, rows, sum);
    }
    for (long o = 0; o < lines; o++)
      for (long i = 0; i < width; i++) {
        int64_t mine = (int64_t)sum[o * ins + i];
        t->into[o * width + i] = first ? mine : t->into[o * width + i] + mine;
      }
  }
  return kept;
}
