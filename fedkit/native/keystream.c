#include "keystream.h"

#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#include <immintrin.h>

#define AES __attribute__((target("aes,sse4.1")))
#define PAIRS __attribute__((target("vaes,avx2")))
#define INLINE_AES static inline __attribute__((always_inline, target("aes,sse4.1")))
/* Blocks under way together: an instruction's result takes several turns to come. */
#define WIDTH 8
#define ROUNDS 14

/* Whether two blocks pass in one instruction; a virtual machine leaves itself to answer, so it is asked once. */
static int paired;

int fedkit_has_aes(void) {
  unsigned a, b, c = 0, d;
  __builtin_cpu_init();
  paired = __builtin_cpu_supports("avx2") && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c & bit_VAES);
  return __builtin_cpu_supports("aes") && __builtin_cpu_supports("sse4.1");
}

/* The stream in one block an instruction, for whoever compares both. */
void fedkit_unpaired(void) { paired = 0; }

INLINE_AES __m128i mixed(__m128i key, __m128i word) {
  key = _mm_xor_si128(key, _mm_slli_si128(key, 4));
  key = _mm_xor_si128(key, _mm_slli_si128(key, 8));
  return _mm_xor_si128(key, word);
}

/* FIPS 197, 5.2, for keys of eight words: two rounds' keys a turn. */
#define TURN(k, constant)                                                                             \
  even = mixed(even, _mm_shuffle_epi32(_mm_aeskeygenassist_si128(odd, constant), 0xff)), at[k] = even; \
  if (k < ROUNDS) odd = mixed(odd, _mm_shuffle_epi32(_mm_aeskeygenassist_si128(even, 0), 0xaa)), at[k + 1] = odd

AES void schedule_of(const uint8_t key[32], schedule *s) {
  __m128i at[ROUNDS + 2], even = _mm_loadu_si128((const __m128i *)key), odd = _mm_loadu_si128((const __m128i *)(key + 16));
  at[0] = even, at[1] = odd;
  TURN(2, 0x01);
  TURN(4, 0x02);
  TURN(6, 0x04);
  TURN(8, 0x08);
  TURN(10, 0x10);
  TURN(12, 0x20);
  TURN(14, 0x40);
  memcpy(s->rounds, at, sizeof s->rounds);
  memset(at, 0, sizeof at);
  __asm__ volatile("" : : "r"(at) : "memory");
}

AES static void one_by_one(const __m128i *keys, int segment, uint64_t block, uint64_t *words, int64_t count) {
  for (; count > 0; count -= 2 * WIDTH, block += WIDTH, words += 2 * WIDTH) {
    __m128i x[WIDTH], key = _mm_loadu_si128(keys);
    for (int k = 0; k < WIDTH; k++)
      x[k] = _mm_xor_si128(_mm_set_epi64x((long long)__builtin_bswap64(block + k), segment), key);
    for (int r = 1; r < ROUNDS; r++) {
      key = _mm_loadu_si128(keys + r);
      for (int k = 0; k < WIDTH; k++) x[k] = _mm_aesenc_si128(x[k], key);
    }
    key = _mm_loadu_si128(keys + ROUNDS);
    for (int k = 0; k < WIDTH; k++) x[k] = _mm_aesenclast_si128(x[k], key);
    memcpy(words, x, (count < 2 * WIDTH ? count : 2 * WIDTH) * sizeof(uint64_t));
  }
}

PAIRS static void two_by_two(const __m128i *keys, int segment, uint64_t block, uint64_t *words, int64_t count) {
  for (; count > 0; count -= 4 * WIDTH, block += 2 * WIDTH, words += 4 * WIDTH) {
    __m256i x[WIDTH], key = _mm256_broadcastsi128_si256(_mm_loadu_si128(keys));
    for (int k = 0; k < WIDTH; k++) {
      long long first = (long long)__builtin_bswap64(block + 2 * k), second = (long long)__builtin_bswap64(block + 2 * k + 1);
      x[k] = _mm256_xor_si256(_mm256_set_epi64x(second, segment, first, segment), key);
    }
    for (int r = 1; r < ROUNDS; r++) {
      key = _mm256_broadcastsi128_si256(_mm_loadu_si128(keys + r));
      for (int k = 0; k < WIDTH; k++) x[k] = _mm256_aesenc_epi128(x[k], key);
    }
    key = _mm256_broadcastsi128_si256(_mm_loadu_si128(keys + ROUNDS));
    for (int k = 0; k < WIDTH; k++) x[k] = _mm256_aesenclast_epi128(x[k], key);
    memcpy(words, x, (count < 4 * WIDTH ? count : 4 * WIDTH) * sizeof(uint64_t));
  }
}

void keystream(const schedule *s, int segment, uint64_t block, uint64_t *words, int64_t count) {
  const __m128i *keys = (const __m128i *)s->rounds;
  if (paired)
    two_by_two(keys, segment, block, words, count);
  else
    one_by_one(keys, segment, block, words, count);
}

#else

int fedkit_has_aes(void) { return 0; }
void fedkit_unpaired(void) {}
void schedule_of(const uint8_t key[32], schedule *s) {}
void keystream(const schedule *s, int segment, uint64_t block, uint64_t *words, int64_t count) {}

#endif

void schedule_forget(schedule *s) {
  memset(s, 0, sizeof *s);
  /* Nobody reads it again, and a compiler would leave it as it is. */
  __asm__ volatile("" : : "r"(s) : "memory");
}

/* The stream by itself, for whoever compares it. */
void fedkit_keystream(const uint8_t *key, int64_t segment, int64_t block, uint64_t *words, int64_t count) {
  schedule s;
  schedule_of(key, &s);
  keystream(&s, (int)segment, (uint64_t)block, words, count);
  schedule_forget(&s);
}
