// Gumbel noise of whole vocabularies.

#include <algorithm>

#include "noise.h"

// Noise of `rows` positions from `position` on, [rows][vocabulary]; the table's values and slopes.
extern "C" void gumbel(uint64_t seed, int64_t position, int64_t rows, int64_t vocabulary,
                       const float* values, const float* slopes, int64_t threads, float* noise) {
    const int64_t blocks = (vocabulary + 4 * WORDS - 1) / (4 * WORDS);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t job = 0; job < rows * blocks; job++) {
        const int64_t row = job / blocks, first = job % blocks * WORDS;
        Words w;
        for (int64_t n = 0; n < WORDS; n++)
            w.c0[n] = uint32_t(first + n), w.c1[n] = uint32_t(position + row), w.c2[n] = w.c3[n] = 0;
        philox(seed, WORDS, w);
        const uint32_t* lanes[] = {w.c0, w.c1, w.c2, w.c3};
        const int64_t count = std::min(4 * WORDS, vocabulary - 4 * first);
        float* out = noise + row * vocabulary + 4 * first;
        for (int64_t n = 0; n < count; n++) out[n] = gumbel_of(lanes[n % 4][n / 4], values, slopes);
    }
}
