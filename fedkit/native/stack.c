#include "stack.h"

#include <math.h>

#include "products.h"

static long laid(stack *s, const layer *layers, long count, long rows, float *memory) {
  long used = 0, at = 0;
  s->count = count, s->rows = rows;
  for (long k = 0; k < count; k++) {
    part *p = s->parts + k;
    p->inputs = layers[k].inputs, p->outputs = layers[k].outputs;
    p->bias = layers[k].bias, p->after = layers[k].after;
    p->width = p->inputs + p->bias;
    p->ins = up(p->width, LANES), p->outs = up(p->outputs, TILE), p->columns = up(p->outputs, LANES);
    p->at = at, at += p->width * p->outputs;
    long sizes[] = {p->columns * p->ins, p->ins * p->columns, rows * p->ins, rows * p->columns, rows * p->columns};
    float **into[] = {&p->weight, &p->turned, &p->taken, &p->output, &p->error};
    for (int i = 0; i < 5; i++) *into[i] = memory ? memory + used : 0, used += up(sizes[i], LANES);
  }
  s->d = at;
  return used;
}

long stack_floats(const layer *layers, long count, long rows) {
  stack s;
  return laid(&s, layers, count, rows, 0);
}

void stack_in(stack *s, const layer *layers, long count, long rows, float *memory) {
  long floats = laid(s, layers, count, rows, memory);
  memset(memory, 0, floats * sizeof(float));
  for (long k = 0; k < count; k++) {
    part *p = s->parts + k;
    if (p->bias)
      for (long r = 0; r < rows; r++) p->taken[r * p->ins + p->inputs] = 1.0f;
  }
}

void stack_load(stack *s, const float *packed) {
  for (long k = 0; k < s->count; k++) {
    part *p = s->parts + k;
    const float *w = packed + p->at, *bias = w + p->inputs * p->outputs;
    for (long o = 0; o < p->outputs; o++) {
      memcpy(p->weight + o * p->ins, w + o * p->inputs, p->inputs * sizeof(float));
      if (p->bias) p->weight[o * p->ins + p->inputs] = bias[o];
    }
  }
  stack_turn(s);
}

void stack_store(const stack *s, float *packed) {
  for (long k = 0; k < s->count; k++) {
    const part *p = s->parts + k;
    float *w = packed + p->at, *bias = w + p->inputs * p->outputs;
    for (long o = 0; o < p->outputs; o++) {
      memcpy(w + o * p->inputs, p->weight + o * p->ins, p->inputs * sizeof(float));
      if (p->bias) bias[o] = p->weight[o * p->ins + p->inputs];
    }
  }
}

void stack_turn(stack *s) {
  for (long k = 0; k < s->count; k++) {
    part *p = s->parts + k;
    for (long i = 0; i < p->ins; i += LANES)
      for (long o = 0; o < p->columns; o += LANES)
        transpose8(p->weight + o * p->ins + i, p->ins, p->turned + i * p->columns + o, p->columns);
  }
}

int stack_holds(const stack *s, int task, const void *y, const int64_t *index, long rows) {
  long classes = s->parts[s->count - 1].outputs;
  for (long r = 0; task == MULTICLASS && r < rows; r++) {
    int64_t class = ((const int64_t *)y)[index[r]];
    if (class < 0 || class >= classes) return 0;
  }
  return 1;
}

void stack_take(stack *s, const float *x, const int64_t *index, long rows) {
  part *p = s->parts;
  for (long r = 0; r < rows; r++)
    memcpy(p->taken + r * p->ins, x + index[r] * p->inputs, p->inputs * sizeof(float));
  for (long r = rows; r < up(rows, TILE); r++) memset(p->taken + r * p->ins, 0, p->inputs * sizeof(float));
}

INLINE float sigmoid(float z) { return 1.0f / (1.0f + expf(-z)); }

static void forwards(const part *p, const float *z, long columns, float *into, long wide, long rows) {
  for (long r = 0; r < rows; r++) {
    const float *from = z + r * columns;
    float *to = into + r * wide;
    if (p->after == IDENTITY) memmove(to, from, p->outputs * sizeof(float));
    /* Written so that what is no number stays none. */
    if (p->after == RELU)
      for (long j = 0; j < p->outputs; j++) to[j] = from[j] < 0.0f ? 0.0f : from[j];
    if (p->after == TANH)
      for (long j = 0; j < p->outputs; j++) to[j] = tanhf(from[j]);
    if (p->after == SIGMOID)
      for (long j = 0; j < p->outputs; j++) to[j] = sigmoid(from[j]);
  }
}

/* error, by the function's result, becomes error by its argument; both functions' derivatives follow from the result. */
static void backwards(const part *p, const float *result, long wide, float *error, long rows) {
  for (long r = 0; r < rows; r++) {
    const float *y = result + r * wide;
    float *e = error + r * p->columns;
    if (p->after == RELU)
      for (long j = 0; j < p->outputs; j++) e[j] = y[j] <= 0.0f ? 0.0f : e[j];
    if (p->after == TANH)
      for (long j = 0; j < p->outputs; j++) e[j] *= 1.0f - y[j] * y[j];
    if (p->after == SIGMOID)
      for (long j = 0; j < p->outputs; j++) e[j] *= (1.0f - y[j]) * y[j];
  }
}

static void residuals(const part *p, const float *scores, int task, const void *y, const int64_t *index, long rows) {
  for (long r = 0; r < rows; r++) {
    const float *z = scores + r * p->columns;
    float *e = p->error + r * p->columns;
    if (task == BINARY) e[0] = sigmoid(z[0]) - ((const float *)y)[index[r]];
    if (task == REGRESSION) e[0] = 2.0f * (z[0] - ((const float *)y)[index[r]]);
    if (task == MULTICLASS) {
      float most = z[0], sum = 0.0f;
      for (long j = 1; j < p->outputs; j++) most = z[j] > most ? z[j] : most;
      for (long j = 0; j < p->outputs; j++) sum += e[j] = expf(z[j] - most);
      for (long j = 0; j < p->outputs; j++) e[j] /= sum;
      e[((const int64_t *)y)[index[r]]] -= 1.0f;
    }
  }
}

void stack_passes(stack *s, int task, const void *y, const int64_t *index, long rows) {
  long padded = up(rows, TILE);
  for (long k = 0; k < s->count; k++) {
    part *p = s->parts + k;
    rows_product(p->taken, p->ins, p->turned, p->columns, p->width, p->output, p->columns, padded);
    if (k + 1 < s->count)
      forwards(p, p->output, p->columns, p[1].taken, p[1].ins, padded);
    else
      forwards(p, p->output, p->columns, p->output, p->columns, padded);
  }
  part *last = s->parts + s->count - 1;
  residuals(last, last->output, task, y, index, rows);
  for (long k = s->count - 1; k >= 0; k--) {
    part *p = s->parts + k;
    if (k + 1 < s->count)
      backwards(p, p[1].taken, p[1].ins, p->error, rows);
    else
      backwards(p, p->output, p->columns, p->error, rows);
    /* The weights' columns of inputs are the errors' columns before them; the bias' column is nobody's. */
    if (k)
      rows_product(p->error, p->columns, p->weight, p->ins, p->outputs, p[-1].error, p[-1].columns, padded);
  }
}
