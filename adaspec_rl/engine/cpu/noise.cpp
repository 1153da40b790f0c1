// Gumbel noise from Philox4x32-10, the same bits as `decoding/noise.py` computes.

#include <cstdint>
#include <cstring>

#include <algorithm>

namespace {

constexpr int ROUNDS = 10;
constexpr int64_t BLOCK = 256;  // counters at a time, four words each

inline uint32_t high(uint32_t a, uint32_t b) { return uint32_t((uint64_t(a) * b) >> 32); }

// Words 4 (first + n) to 4 (first + n) + 3 of a position, for n < BLOCK.
void philox(uint32_t k0, uint32_t k1, uint32_t first, uint32_t position, uint32_t* words) {
    uint32_t c0[BLOCK], c1[BLOCK], c2[BLOCK], c3[BLOCK];
    for (int64_t n = 0; n < BLOCK; n++) {
        c0[n] = first + uint32_t(n), c1[n] = position, c2[n] = 0, c3[n] = 0;
    }
    for (int round = 0; round < ROUNDS; round++) {
        for (int64_t n = 0; n < BLOCK; n++) {
            const uint32_t a = c0[n], b = c2[n];
            c0[n] = high(b, 0xCD9E8D57) ^ c1[n] ^ k0;
            c1[n] = b * 0xCD9E8D57;
            c2[n] = high(a, 0xD2511F53) ^ c3[n] ^ k1;
            c3[n] = a * 0xD2511F53;
        }
        k0 += 0x9E3779B9, k1 += 0xBB67AE85;
    }
    for (int64_t n = 0; n < BLOCK; n++) {
        words[4 * n] = c0[n], words[4 * n + 1] = c1[n];
        words[4 * n + 2] = c2[n], words[4 * n + 3] = c3[n];
    }
}

}  // namespace

// Noise of `rows` positions from `position` on, [rows][vocabulary]; the table's values and slopes.
extern "C" void gumbel(uint64_t seed, int64_t position, int64_t rows, int64_t vocabulary,
                       const float* values, const float* slopes, int64_t threads, float* noise) {
    const int64_t blocks = (vocabulary + 4 * BLOCK - 1) / (4 * BLOCK);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t job = 0; job < rows * blocks; job++) {
        const int64_t row = job / blocks, first = job % blocks * BLOCK;
        uint32_t words[4 * BLOCK];
        philox(uint32_t(seed), uint32_t(seed >> 32), uint32_t(first), uint32_t(position + row), words);
        const int64_t count = std::min(4 * BLOCK, vocabulary - 4 * first);
        float* out = noise + row * vocabulary + 4 * first;
        for (int64_t n = 0; n < count; n++) {
            const float odd = float(int32_t(words[n] | 1));
            uint32_t bits;
            std::memcpy(&bits, &odd, 4);
            const uint32_t entry = bits >> 13;
            // The product is rounded before the sum, and so never fused with it.
            out[n] = values[entry] + float(double(slopes[entry]) * double(bits & 0x1FFF));
        }
    }
}
