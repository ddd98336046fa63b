#include "private.h"

#include <math.h>

#include "descent.h"
#include "products.h"

/* Rows that pass together: what they need stays near the core. */
#define BLOCK 32
#define TINY 1e-200

/* What a layer's exact sum needs: both factors of each row, u [BLOCK, ins] and v [BLOCK, outs]; sum [outs, ins], in
   steps of 2**-(bits_u + bits_v) clips, below [outs, ins]: what was folded of it; slope [ins]. */
typedef struct {
  double *u, *v, *sum;
  int64_t *below;
  float *slope;
} exact;

static double squares(const float *p, long count) {
  double sum = 0.0;
  d4 four = {0};
  long i = 0;
  for (; i + 4 <= count; i += 4) {
    d4 x = d4_of(p + i);
    four += x * x;
  }
  sum = (four[0] + four[1]) + (four[2] + four[3]);
  for (; i < count; i++) sum += (double)p[i] * p[i];
  return sum;
}

static void whole(const float *p, double factor, double *into, long count) {
  for (long i = 0; i < count; i++) into[i] = ((p[i] * factor) + ROUNDING) - ROUNDING;
}

/* The integers of one row; see fedkit.privacy.product_sum. */
static void quantise(const stack *s, const plan *p, exact *x, long row) {
  double sizes[MOST_LAYERS], norm = 0.0;
  for (long k = 0; k < s->count; k++) {
    const part *l = s->parts + k;
    double of_a = squares(l->taken + row * l->ins, l->width);
    norm += of_a * squares(l->error + row * l->columns, l->outputs);
    sizes[k] = sqrt(of_a);
  }
  int left = !isfinite(norm);
  double factor = fmin(1.0 / sqrt(norm), 1.0 / p->clip);
  for (long k = 0; k < s->count; k++) {
    const part *l = s->parts + k;
    double *u = x[k].u + row * l->ins, *v = x[k].v + row * l->outs;
    if (left) {
      memset(u, 0, l->ins * sizeof(double));
      memset(v, 0, l->outs * sizeof(double));
      continue;
    }
    whole(l->taken + row * l->ins, ldexp(1.0, p->bits_u) / fmax(sizes[k], TINY), u, l->width);
    whole(l->error + row * l->columns, factor * sizes[k] * ldexp(1.0, p->bits_v), v, l->outputs);
  }
}

/* What was summed moves to 64 bits, which hold 2**11 times as many rows. */
static void fold(const stack *s, exact *x, int first) {
  for (long k = 0; k < s->count; k++) {
    long numbers = s->parts[k].outs * s->parts[k].ins;
    if (first) memset(x[k].below, 0, numbers * sizeof(int64_t));
    for (long i = 0; i < numbers; i++) x[k].below[i] += (int64_t)x[k].sum[i];
    memset(x[k].sum, 0, numbers * sizeof(double));
  }
}

/* An exact sum in steps of 2**-shift of the lattice, rounded to it: ties to even, as rint does. */
static double rounded(int64_t sum, int shift) {
  int64_t down = sum >> shift, rest = sum - down * ((int64_t)1 << shift), half = (int64_t)1 << (shift - 1);
  return (double)(down + (rest > half || (rest == half && (down & 1))));
}

INLINE float slope_of(double sum, double noise, double to_mean) {
  return (float)((((sum + ROUNDING) - ROUNDING) + noise) * to_mean);
}

/* Lattice sums and noise make a step. */
static void step(stack *s, const plan *p, exact *x, int folded, const double *noise, const descent *d) {
  int shift = (int)(p->bits_u + p->bits_v - p->lattice_bits);
  double to_lattice = ldexp(1.0, -shift);
  for (long k = 0, at = 0; k < s->count; at += s->parts[k].outs * s->parts[k].ins, k++) {
    part *l = s->parts + k;
    const double *mine = noise + l->at, *bias = mine + l->outputs * l->inputs;
    for (long o = 0; o < l->outputs; o++, mine += l->inputs) {
      double *sum = x[k].sum + o * l->ins;
      float *w = l->weight + o * l->ins, *slope = x[k].slope;
      if (folded)
        for (long i = 0; i < l->width; i++) sum[i] = ldexp(rounded(x[k].below[o * l->ins + i], shift), shift);
      for (long i = 0; i < l->inputs; i++) slope[i] = slope_of(sum[i] * to_lattice, mine[i], p->to_mean);
      if (l->bias) slope[l->inputs] = slope_of(sum[l->inputs] * to_lattice, bias[o], p->to_mean);
      descend(d, w, slope, at + o * l->ins, l->ins);
      bounded(w, l->ins);
    }
  }
}

static long doubles_of(const layer *layers, long count) {
  long doubles = 0;
  for (long k = 0; k < count; k++) {
    long ins = up(layers[k].inputs + layers[k].bias, LANES), outs = up(layers[k].outputs, TILE);
    doubles += BLOCK * (ins + outs) + 2 * outs * ins + ins;
  }
  return doubles;
}

static void sums_in(exact *x, const stack *s, double *memory) {
  for (long k = 0; k < s->count; k++) {
    long ins = s->parts[k].ins, outs = s->parts[k].outs;
    x[k].u = memory, memory += BLOCK * ins;
    x[k].v = memory, memory += BLOCK * outs;
    x[k].sum = memory, memory += outs * ins;
    x[k].below = (int64_t *)memory, memory += outs * ins;
    x[k].slope = (float *)memory, memory += ins;
    /* Behind the numbers of a layer stands nothing, and nothing is to move there. */
    memset(x[k].u, 0, BLOCK * (ins + outs) * sizeof(double));
    memset(x[k].slope, 0, ins * sizeof(float));
  }
}

/* The exact sum of a lot; whether it was folded. */
static int lot_sum(stack *s, const plan *p, exact *x, const float *rows, const void *y, const int64_t *lot, long size) {
  long held = 0, folded = 0;
  for (long k = 0; k < s->count; k++) memset(x[k].sum, 0, s->parts[k].outs * s->parts[k].ins * sizeof(double));
  for (long at = 0, taken; at < size; at += taken, held += taken) {
    taken = size - at < BLOCK ? size - at : BLOCK;
    taken = taken < p->places ? taken : p->places;
    if (held + taken > p->places) fold(s, x, !folded), held = 0, folded = 1;
    stack_take(s, rows, lot + at, taken);
    stack_passes(s, (int)p->task, y, lot + at, taken);
    for (long r = 0; r < taken; r++) quantise(s, p, x, r);
    for (long k = 0; k < s->count; k++) {
      part *l = s->parts + k;
      outer_sum(x[k].v, l->outs, l->outs, x[k].u, l->ins, taken, x[k].sum);
    }
  }
  if (folded) fold(s, x, 0);
  return folded;
}

int64_t fedkit_state(const layer *layers, int64_t count) { return 3 * descent_places(layers, count); }

/* doubles that fedkit_private works in. */
int64_t fedkit_private_memory(const layer *layers, int64_t count) {
  return up(stack_floats(layers, count, BLOCK), LANES) / 2 + doubles_of(layers, count);
}

int fedkit_private(const layer *layers, int64_t count, const plan *p, float *parameters, const float *x, const void *y,
                   const int64_t *index, const int64_t *ends, const double *noise, float *state, double *memory) {
  stack s;
  exact sums[MOST_LAYERS];
  stack_in(&s, layers, count, BLOCK, (float *)memory);
  if (!stack_holds(&s, (int)p->task, y, index, ends[p->steps])) return 1;
  stack_load(&s, parameters);
  sums_in(sums, &s, memory + up(stack_floats(layers, count, BLOCK), LANES) / 2);
  descent d = descent_in(state, descent_places(layers, count), &s, p->rate, p->mu, p->adam, p->before);
  for (long t = 0; t < p->steps; t++) {
    int folded = lot_sum(&s, p, sums, x, y, index + ends[t], ends[t + 1] - ends[t]);
    descent_next(&d);
    step(&s, p, sums, folded, noise + t * s.d, &d);
    stack_turn(&s);
  }
  stack_store(&s, parameters);
  return 0;
}
