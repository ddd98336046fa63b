#include <math.h>
#include <stdlib.h>

#include "products.h"
#include "stack.h"

/* One site after another, each from the received parameters [d]: steps of SGD on the mean loss. index [steps, sites,
   places]: rows of x and y, those of nobody (a number below 0) behind the others; counts [sites]: each one's steps.
   moved [sites, d]: how far each is from the received ones. 0, or 1 where memory is missing. */
int fedkit_plain(const layer *layers, int64_t count, int64_t task, const float *received, const float *x, const void *y,
                 const int64_t *index, const int64_t *counts, int64_t sites, int64_t places, double rate, float *moved) {
  long rows = up(places, TILE), floats = stack_floats(layers, count, rows), most = 0;
  for (long k = 0; k < count; k++) {
    long ins = up(layers[k].inputs + layers[k].bias, LANES), outs = up(layers[k].outputs, TILE);
    most = outs * ins > most ? outs * ins : most;
  }
  float *memory, alpha = -(float)rate;
  if (posix_memalign((void **)&memory, 32, (floats + most) * sizeof(float))) return 1;
  float *slope = memory + floats;
  stack s;
  stack_in(&s, layers, count, rows, memory);
  for (long site = 0; site < sites; site++) {
    stack_load(&s, received);
    for (long t = 0; t < counts[site]; t++) {
      const int64_t *mine = index + (t * sites + site) * places;
      long taken = 0;
      while (taken < places && mine[taken] >= 0) taken++;
      stack_take(&s, x, mine, taken);
      stack_passes(&s, (int)task, y, mine, taken);
      float share = 1.0f / taken;
      for (long k = 0; k < count; k++) {
        part *l = s.parts + k;
        slope_sum(l->error, l->columns, l->outs, l->taken, l->ins, taken, slope);
        for (long i = 0; i < l->outputs * l->ins; i++) l->weight[i] += alpha * share * slope[i];
      }
      stack_turn(&s);
    }
    stack_store(&s, moved + site * s.d);
    for (long i = 0; i < s.d; i++) moved[site * s.d + i] -= received[i];
  }
  free(memory);
  return 0;
}
