// Vectors of 16 numbers, in as many registers as the processor needs for them.
//
// Compilers keep their own vector types in memory if these are wider than a register, and every
// operation loads and stores them. So a vector here consists of parts that each fit a register.

#pragma once

#include <cstdint>
#include <cstring>

#ifdef __AVX2__
#include <immintrin.h>
#endif

// An operation on a register of integers, named as in the processor's intrinsics.
#if defined(__AVX512BW__)
#define INTEGERS(operation) _mm512_##operation
typedef __m512i IntegerRegister;
#elif defined(__AVX2__) && !defined(__AVX512F__)
#define INTEGERS(operation) _mm256_##operation
typedef __m256i IntegerRegister;
#endif

// A vector of several parts is handed to functions in memory, so small functions must be inlined.
#define INLINED [[gnu::always_inline]] inline

namespace {

constexpr int LANES = 16;
#if defined(__AVX512F__)
constexpr int PARTS = 1;
#elif defined(__AVX2__)
constexpr int PARTS = 2;
#else
constexpr int PARTS = 4;
#endif

template <typename N>
struct Register;  // a part of a vector
#define REGISTER(N)                                                                         \
    template <>                                                                             \
    struct Register<N> {                                                                    \
        typedef N type __attribute__((vector_size(LANES / PARTS * sizeof(N)), aligned(sizeof(N)))); \
    };
REGISTER(float)
REGISTER(int32_t)
REGISTER(uint32_t)
REGISTER(uint16_t)
REGISTER(int8_t)
#undef REGISTER

template <typename N>
struct Vector {
    typedef typename Register<N>::type Part;
    Part part[PARTS];

    Vector() = default;
    Vector(N number) {  // in all lanes
        for (Part& p : part) p = number - Part{};
    }
    template <typename M>
    explicit Vector(Vector<M> other) {  // the same bits
        static_assert(sizeof(M) == sizeof(N));
        for (int i = 0; i < PARTS; i++) part[i] = (Part)other.part[i];
    }

    N operator[](int64_t lane) const { return part[lane / (LANES / PARTS)][lane % (LANES / PARTS)]; }
    void set(int64_t lane, N number) { part[lane / (LANES / PARTS)][lane % (LANES / PARTS)] = number; }

#define OPERATION(op)                                                                       \
    friend Vector operator op(Vector a, Vector b) {                                         \
        for (int i = 0; i < PARTS; i++) a.part[i] = a.part[i] op b.part[i];                 \
        return a;                                                                           \
    }
    OPERATION(+)
    OPERATION(-)
    OPERATION(*)
    OPERATION(/)
    OPERATION(&)
    OPERATION(|)
    OPERATION(<<)
    OPERATION(>>)
#undef OPERATION
    friend Vector operator-(Vector a) {
        for (Part& p : a.part) p = -p;
        return a;
    }
    Vector& operator+=(Vector other) { return *this = *this + other; }
    Vector& operator-=(Vector other) { return *this = *this - other; }
    Vector& operator*=(Vector other) { return *this = *this * other; }

    // In each lane -1 if the comparison holds, else 0.
#define COMPARISON(op)                                                                      \
    friend Vector<int32_t> operator op(Vector a, Vector b) {                                \
        Vector<int32_t> found;                                                              \
        for (int i = 0; i < PARTS; i++) found.part[i] = a.part[i] op b.part[i];             \
        return found;                                                                       \
    }
    COMPARISON(<)
    COMPARISON(>)
    COMPARISON(>=)
#undef COMPARISON
};

typedef Vector<float> Vec;
typedef Vector<int32_t> Ints;
typedef Vector<uint32_t> Words;
typedef Vector<uint16_t> Halves;
typedef Vector<int8_t> Bytes;

template <typename M, typename N>
INLINED Vector<M> converted(Vector<N> v) {
    Vector<M> result;
    for (int i = 0; i < PARTS; i++)
        result.part[i] = __builtin_convertvector(v.part[i], typename Vector<M>::Part);
    return result;
}

// `a` in the lanes where `mask` holds, else `b`.
template <typename N>
INLINED Vector<N> chosen(Ints mask, Vector<N> a, Vector<N> b) {
    for (int i = 0; i < PARTS; i++) a.part[i] = mask.part[i] ? a.part[i] : b.part[i];
    return a;
}

template <typename N>
Vector<N> vector_at(const N* from) {
    Vector<N> v;
    std::memcpy(&v, from, sizeof v);
    return v;
}

// 0, 1, 2, …, 15.
Ints lane_numbers() {
    constexpr int32_t NUMBERS[LANES] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return vector_at(NUMBERS);
}

// Reduces all lanes of a vector by an operation on two numbers: 0 with 8, 1 with 9, and so on.
template <typename N, typename Operation>
N folded(Vector<N> v, Operation apply) {
    N lane[LANES];
    std::memcpy(lane, &v, sizeof v);
    for (int width = LANES / 2; width; width /= 2)
        for (int i = 0; i < width; i++) lane[i] = apply(lane[i], lane[i + width]);
    return lane[0];
}

template <typename N>
N sum_of(Vector<N> v) {
    return folded(v, [](N a, N b) { return a + b; });
}

float largest_of(Vec v) {
    return folded(v, [](float a, float b) { return a > b ? a : b; });
}

INLINED Vec smaller(Vec a, Vec b) { return chosen(a < b, a, b); }
INLINED Vec larger(Vec a, Vec b) { return chosen(a > b, a, b); }

INLINED Vec absolute(Vec x) { return (Vec)((Words)x & 0x7fffffff); }
INLINED Ints nearest(Vec x) { return converted<int32_t>(x + chosen(x < 0, Vec(-0.5f), Vec(0.5f))); }

// e^x to within two units in the last place (Cephes' expf); 0 below the smallest normal number.
INLINED Vec exponential(Vec x) {
    Vec bounded = larger(smaller(x, 88.37f), -87.33f);
    Ints power = nearest(bounded * 1.44269504f);
    Vec n = converted<float>(power);
    Vec r = bounded - n * 0.693359375f + n * 2.12194440e-4f;
    Vec y = 1.9875691500e-4f;
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    return chosen(x < -87.33f, Vec(0.0f), y * (Vec)((power + 127) << 23));
}

float exponential(float x) { return exponential(Vec(x))[0]; }

// ---- bfloat16 and float16 -----------------------------------------------------------------------

Vec load(const float* from) { return vector_at(from); }
Vec load(const uint16_t* from) {
#ifdef __AVX512F__  // two instructions, where compilers use five
    const __m256i values = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    const __m512i words = _mm512_slli_epi32(_mm512_cvtepu16_epi32(values), 16);
    Vec v;
    std::memcpy(&v, &words, sizeof v);
    return v;
#else
    return (Vec)(converted<uint32_t>(vector_at(from)) << 16);
#endif
}

// Number 0 or 1 of two vectors side by side; those of bfloat16 are the even values and the odd ones.
INLINED Vec load_half(const float* from, int number) { return load(from + number * LANES); }
INLINED Vec load_half(const uint16_t* from, int number) {
    Words pairs;
    std::memcpy(&pairs, from, sizeof pairs);
    return (Vec)(number ? pairs & 0xffff0000 : pairs << 16);
}

// Puts the lanes of two vectors that were loaded as halves in order.
void put_in_order(Vec&, Vec&, float) {}
void put_in_order(Vec& even, Vec& odd, uint16_t) {
    float ordered[2 * LANES];
    for (int i = 0; i < LANES; i++) ordered[2 * i] = even[i], ordered[2 * i + 1] = odd[i];
    even = load(ordered), odd = load(ordered + LANES);
}

// Rounds to the nearest bfloat16, ties to even.
Halves narrowed(Vec x) {
    const Words bits = (Words)x;
    return converted<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
uint16_t narrowed(float value) { return narrowed(Vec(value))[0]; }

Vec from_float16(const uint16_t* from) {
#ifdef __AVX512F__
    const __m512 values = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
    Vec v;
    std::memcpy(&v, &values, sizeof v);
    return v;
#else
    const Words bits = converted<uint32_t>(vector_at(from));
    const Vec magnitude = (Vec)((bits & 0x7fff) << 13) * 0x1p112f;
    return (Vec)((Words)magnitude | (bits & 0x8000) << 16);
#endif
}

// The first `count` numbers from an address on, at most 16, then zeros.
template <typename T>
Vec load_some(const T* from, int64_t count) {
    if (count >= LANES) return load(from);
    T padded[LANES] = {};
    std::memcpy(padded, from, count * sizeof(T));
    return load(padded);
}

void store_some(float* to, Vec value, int64_t count) {
    if (count >= LANES)
        std::memcpy(to, &value, sizeof value);
    else
        std::memcpy(to, &value, count * sizeof(float));
}

}  // namespace
