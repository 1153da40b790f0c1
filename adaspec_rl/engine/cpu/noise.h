// Gumbel noise from Philox4x32-10, the same bits as `decoding/noise.py` computes.

#pragma once

#include <cstdint>
#include <cstring>

namespace {

constexpr int64_t WORDS = 256;  // counters at a time, four words each

// Counters, and then the words that they become.
struct Words {
    uint32_t c0[WORDS], c1[WORDS], c2[WORDS], c3[WORDS];
};

inline uint32_t high(uint32_t a, uint32_t b) { return uint32_t((uint64_t(a) * b) >> 32); }

// The first `count` counters' words.
inline void philox(uint64_t seed, int64_t count, Words& w) {
    uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
    for (int round = 0; round < 10; round++) {
        for (int64_t n = 0; n < count; n++) {
            const uint32_t a = w.c0[n], b = w.c2[n];
            w.c0[n] = high(b, 0xCD9E8D57) ^ w.c1[n] ^ k0;
            w.c1[n] = b * 0xCD9E8D57;
            w.c2[n] = high(a, 0xD2511F53) ^ w.c3[n] ^ k1;
            w.c3[n] = a * 0xD2511F53;
        }
        k0 += 0x9E3779B9, k1 += 0xBB67AE85;
    }
}

// The noise of a word, from the table's values and slopes.
inline float gumbel_of(uint32_t word, const float* values, const float* slopes) {
    const float odd = float(int32_t(word | 1));
    uint32_t bits;
    std::memcpy(&bits, &odd, 4);
    const uint32_t entry = bits >> 13;
    // The product is rounded before the sum, and so never fused with it.
    return values[entry] + float(double(slopes[entry]) * double(bits & 0x1FFF));
}

}  // namespace
