/* Words of AES-256 in counter mode (FIPS 197, SP 800-38A): fedkit.privacy.randomness has them from OpenSSL. */
#ifndef FEDKIT_KEYSTREAM_H
#define FEDKIT_KEYSTREAM_H

#include <stdint.h>

/* The keys of all rounds. Whoever has them knows the noise. */
typedef struct {
  uint8_t rounds[15][16];
} schedule;

/* Whether this processor has instructions for AES: to be asked first, and without them nothing else here may be called.
   Tables in their place would tell the key to whoever shares the cache. */
int fedkit_has_aes(void);
void schedule_of(const uint8_t key[32], schedule *s);
void schedule_forget(schedule *s);
/* count words from counter segment * 2**120 + block on. */
void keystream(const schedule *s, int segment, uint64_t block, uint64_t *words, int64_t count);

#endif
