/* A stack of Linear layers and pointwise functions: one site's copy of it, and the passes of some rows. */
#ifndef FEDKIT_STACK_H
#define FEDKIT_STACK_H

#include "vector.h"

enum function { IDENTITY, RELU, TANH, SIGMOID };
enum task { BINARY, MULTICLASS, REGRESSION };

/* As Python describes a layer; after is one of enum function. */
typedef struct {
  int64_t inputs, outputs, bias, after;
} layer;

/* What a site has of a layer. weight [columns, ins]: as packed, the bias behind the inputs, zeros behind both; turned
   [ins, columns]: the same for the forward pass. taken [rows, ins]: the inputs, a 1 behind them where there is a bias.
   output [rows, columns]: before the function; error [rows, columns]: the loss's derivative by it. */
typedef struct {
  long inputs, outputs, bias, after;
  long width, ins, outs, columns, at;
  float *weight, *turned, *taken, *output, *error;
} part;

#define MOST_LAYERS 64

typedef struct {
  part parts[MOST_LAYERS];
  long count, d, rows;
} stack;

/* floats that stack_in needs for passes of so many rows (a multiple of TILE). */
long stack_floats(const layer *layers, long count, long rows);
/* Lay a stack out in memory of so many floats, on a boundary of 32 bytes. */
void stack_in(stack *s, const layer *layers, long count, long rows, float *memory);
/* From, and to, parameters in the order in which a model is packed. */
void stack_load(stack *s, const float *packed);
void stack_store(const stack *s, float *packed);
/* Follow the weights: to be called after each change of them. */
void stack_turn(stack *s);
/* Whether each row's target is one that residuals can be of: they write where a class says. */
int stack_holds(const stack *s, int task, const void *y, const int64_t *index, long rows);
/* Copy rows x [any, inputs] into the places; those behind them, up to the next TILE, are filled with zeros. */
void stack_take(stack *s, const float *x, const int64_t *index, long rows);
/* Forward, residual, backward. y: int64 classes (multiclass) or float targets of all rows. */
void stack_passes(stack *s, int task, const void *y, const int64_t *index, long rows);

#endif
