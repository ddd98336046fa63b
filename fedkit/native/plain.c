#include "descent.h"
#include "products.h"
#include "stack.h"

/* floats that fedkit_plain works in. */
int64_t fedkit_plain_memory(const layer *layers, int64_t count, int64_t places) {
  return stack_floats(layers, count, up(places, TILE)) + 4 * descent_places(layers, count);
}

/* One site after another, each from the received parameters [d]: steps on the mean loss of a batch. index [steps, sites,
   places]: rows of x and y, those of nobody (a number below 0) behind the others; counts [sites]: each one's steps.
   moved [sites, d]: how far each is from the received ones; memory: of fedkit_plain_memory. 0,
   or 1 where a class is none. */
int fedkit_plain(const layer *layers, int64_t count, int64_t task, const float *received, const float *x, const void *y,
                 const int64_t *index, const int64_t *counts, int64_t sites, int64_t places, double rate, double mu,
                 int64_t adam, float *moved, float *memory) {
  long rows = up(places, TILE), floats = stack_floats(layers, count, rows), numbers = descent_places(layers, count);
  float *slope = memory + floats, *state = mu != 0.0 || adam ? slope + numbers : 0;
  stack s;
  stack_in(&s, layers, count, rows, memory);
  for (long site = 0; site < sites; site++) {
    stack_load(&s, received);
    descent d = descent_in(state, numbers, &s, rate, mu, adam, 0);
    for (long t = 0; t < counts[site]; t++) {
      const int64_t *mine = index + (t * sites + site) * places;
      long taken = 0;
      while (taken < places && mine[taken] >= 0) taken++;
      if (!stack_holds(&s, (int)task, y, mine, taken)) return 1;
      stack_take(&s, x, mine, taken);
      stack_passes(&s, (int)task, y, mine, taken);
      descent_next(&d);
      float share = 1.0f / taken;
      for (long k = 0, at = 0; k < count; at += s.parts[k].outs * s.parts[k].ins, k++) {
        part *l = s.parts + k;
        slope_sum(l->error, l->columns, l->outs, l->taken, l->ins, taken, slope);
        for (long i = 0; i < l->outputs * l->ins; i++) slope[i] *= share;
        descend(&d, l->weight, slope, at, l->outputs * l->ins);
      }
      stack_turn(&s);
    }
    float *mine = moved + site * s.d;
    stack_store(&s, mine);
    for (long i = 0; i < s.d; i++) mine[i] -= received[i];
  }
  return 0;
}
