#include <math.h>
#include <stdlib.h>

#include "products.h"
#include "stack.h"

/* Rows that pass together: what they need stays near the core. */
#define BLOCK 32
#define TINY 1e-200
#define PARAMETER_LIMIT 1e6f

/* What a plan says, in the order in which Python writes it. */
typedef struct {
  int64_t task, steps, places, bits_u, bits_v, adam;
  double clip, lattice, to_mean, rate, mu;
} plan;

/* What a layer's exact sum needs: u [BLOCK, ins], v [BLOCK, outs], sums [outs, ins], below [outs, ins]. */
typedef struct {
  double *u, *v, *sum;
  int64_t *below;
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

static void fold(const stack *s, exact *x) {
  for (long k = 0; k < s->count; k++) {
    long numbers = s->parts[k].outs * s->parts[k].ins;
    for (long i = 0; i < numbers; i++) x[k].below[i] += (int64_t)x[k].sum[i];
    memset(x[k].sum, 0, numbers * sizeof(double));
  }
}

/* An exact sum in steps of 2**-shift of the lattice, rounded to it: ties to even, as rint does. */
static double rounded(int64_t sum, int shift) {
  int64_t down = sum >> shift, rest = sum - (down << shift), half = (int64_t)1 << (shift - 1);
  return (double)(down + (rest > half || (rest == half && (down & 1))));
}

typedef struct {
  float *anchor, *mean, *square;
  long count;
} moved;

/* A row's slopes move its weights; a bound on them is post-processing, as in the reference. */
static void move(float *w, float *slope, const plan *p, const moved *m, long at, long count) {
  float *mean = m->mean + at, *square = m->square + at, *anchor = m->anchor + at, alpha = -(float)p->rate;
  if (p->mu != 0.0)
    for (long i = 0; i < count; i++) slope[i] += (float)p->mu * (w[i] - anchor[i]);
  if (p->adam) {
    float root = (float)sqrt(1.0 - pow(0.999, m->count));
    alpha = (float)(-p->rate / (1.0 - pow(0.9, m->count)));
    for (long i = 0; i < count; i++) {
      mean[i] += 0.1f * (slope[i] - mean[i]);
      square[i] = square[i] * 0.999f + 0.001f * slope[i] * slope[i];
      slope[i] = mean[i] / (sqrtf(square[i]) / root + 1e-8f);
    }
  }
  for (long i = 0; i < count; i++) {
    float now = w[i] + alpha * slope[i];
    now = now == now ? now : 0.0f;
    now = now < PARAMETER_LIMIT ? now : PARAMETER_LIMIT;
    w[i] = now > -PARAMETER_LIMIT ? now : -PARAMETER_LIMIT;
  }
}

/* Lattice sums and noise make a step. */
static void descend(stack *s, const plan *p, exact *x, int folded, const double *noise, moved *m) {
  int below = (int)(p->bits_u + p->bits_v), shift = below - (int)round(log2(p->lattice));
  double to_lattice = ldexp(p->lattice, -below);
  m->count++;
  for (long k = 0, at = 0; k < s->count; at += s->parts[k].outs * s->parts[k].ins, k++) {
    part *l = s->parts + k;
    const double *mine = noise + l->at;
    for (long o = 0; o < l->outputs; o++, mine += l->inputs) {
      double *sum = x[k].sum + o * l->ins;
      float slope[l->ins];
      if (folded)
        for (long i = 0; i < l->width; i++) sum[i] = rounded(x[k].below[o * l->ins + i], shift);
      else
        for (long i = 0; i < l->ins; i++) sum[i] = ((sum[i] * to_lattice) + ROUNDING) - ROUNDING;
      if (l->bias) sum[l->inputs] = (sum[l->inputs] + noise[l->at + l->outputs * l->inputs + o]) * p->to_mean;
      for (long i = 0; i < l->inputs; i++) sum[i] = (sum[i] + mine[i]) * p->to_mean;
      for (long i = 0; i < l->ins; i++) slope[i] = (float)sum[i];
      move(l->weight + o * l->ins, slope, p, m, at + o * l->ins, l->ins);
    }
  }
}

/* One site's round. parameters [d], in place; x [any, inputs] and y of all rows that index names; step t's lot are the
   rows index[ends[t]] .. index[ends[t + 1] - 1]; noise [steps, d], whole numbers. 0, or 1 where memory is missing. */
int fedkit_private(const layer *layers, int64_t count, const plan *p, float *parameters, const float *x, const void *y,
                   const int64_t *index, const int64_t *ends, const double *noise) {
  long floats = stack_floats(layers, count, BLOCK), doubles = 0, numbers = 0;
  for (long k = 0; k < count; k++) {
    long ins = up(layers[k].inputs + layers[k].bias, LANES), outs = up(layers[k].outputs, TILE);
    numbers += outs * ins, doubles += BLOCK * (ins + outs) + 2 * outs * ins;
  }
  float *memory;
  if (posix_memalign((void **)&memory, 32, (floats + 3 * numbers) * sizeof(float) + doubles * sizeof(double))) return 1;
  double *more = (double *)(memory + floats + 3 * numbers);
  stack s;
  exact sums[MOST_LAYERS];
  stack_in(&s, layers, count, BLOCK, memory);
  memset(memory + floats, 0, 3 * numbers * sizeof(float));
  moved m = {memory + floats, memory + floats + numbers, memory + floats + 2 * numbers, 0};
  memset(more, 0, doubles * sizeof(double));
  stack_load(&s, parameters);
  for (long k = 0, at = 0; k < count; k++) {
    part *l = s.parts + k;
    sums[k].u = more, more += BLOCK * l->ins;
    sums[k].v = more, more += BLOCK * l->outs;
    sums[k].sum = more, more += l->outs * l->ins;
    sums[k].below = (int64_t *)more, more += l->outs * l->ins;
    memcpy(m.anchor + at, l->weight, l->outs * l->ins * sizeof(float));
    at += l->outs * l->ins;
  }
  for (long t = 0; t < p->steps; t++) {
    long held = 0, folded = 0;
    for (long k = 0; k < count; k++) {
      memset(sums[k].sum, 0, s.parts[k].outs * s.parts[k].ins * sizeof(double));
      memset(sums[k].below, 0, s.parts[k].outs * s.parts[k].ins * sizeof(int64_t));
    }
    for (long at = ends[t]; at < ends[t + 1];) {
      long rows = ends[t + 1] - at;
      if (rows > BLOCK) rows = BLOCK;
      if (rows > p->places) rows = p->places;
      if (held + rows > p->places) fold(&s, sums), held = 0, folded = 1;
      stack_take(&s, x, index + at, rows);
      stack_passes(&s, (int)p->task, y, index + at, rows);
      for (long r = 0; r < rows; r++) quantise(&s, p, sums, r);
      for (long k = 0; k < count; k++) {
        part *l = s.parts + k;
        outer_sum(sums[k].v, l->outs, l->outs, sums[k].u, l->ins, rows, sums[k].sum);
      }
      at += rows, held += rows;
    }
    if (folded) fold(&s, sums);
    descend(&s, p, sums, folded, noise + t * s.d, &m);
    stack_turn(&s);
  }
  stack_store(&s, parameters);
  free(memory);
  return 0;
}
