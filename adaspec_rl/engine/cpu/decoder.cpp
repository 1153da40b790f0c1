// One forward pass of a decoder-only transformer, all layers in one call.
//
// A token's numbers do not depend on what is computed beside it: every sum has a fixed order, for
// any width, batch, split of the prompt and number of threads. So logits have the same bits in
// every forward pass that reads the same text.
//
// Matrices are stored in panels of 16 outputs, [panels][inputs][16]: one vector per input.
// Attention goes through the keys by their position in the text, CHUNK at a time.

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <type_traits>
#include <utility>
#include <vector>

#include <omp.h>

#include "choose.h"
#include "suffix_automaton.h"
#include "survival.h"
#include "vectors.h"

namespace {

constexpr int CHUNK = 128;   // keys whose weighted values are summed before joining the rest
constexpr int TOGETHER = 8;  // the most blocks of queries that read a chunk in turn
constexpr int GROUP = 32;    // inputs that share a scale in int4
constexpr int ALIGN = 32;    // rows of buffers are padded to a multiple of this
#ifdef __AVX512F__
constexpr int ACCUMULATORS = 24;  // vectors that stay in registers
#else
constexpr int ACCUMULATORS = 6;  // a vector takes two registers of sixteen
#endif
constexpr bool FEW = ACCUMULATORS < 12;  // else the float32 sums of integer products wait in memory
constexpr int ROWS = FEW ? ACCUMULATORS : 12;  // of one tile, at most
constexpr int PANELS = 8;                          // that are multiplied together, at most
constexpr int QUERIES = FEW ? 4 : 6;  // that go through the keys together, at most
constexpr int blocks_for(int queries) { return FEW ? (queries > 2 ? 1 : 2) : 4; }  // of 16 keys, scored together
constexpr int AHEAD = 128;  // lines of weights that are asked for in advance, of all panels
constexpr int LINE = 64;    // bytes of a cache line
#ifdef __AVX512F__
constexpr int REGISTERS = 32;
#else
constexpr int REGISTERS = 16;
#endif
constexpr float INFINITE = std::numeric_limits<float>::infinity();

// BFLOAT16_PAIRS is stored like BFLOAT16, but uses the instruction that multiplies pairs of
// bfloat16 and so rounds inputs to bfloat16 too. On some processors this instruction takes longer
// than two float32 products.
enum Kind { FLOAT32, BFLOAT16, INT8, INT4, BFLOAT16_PAIRS };

}  // namespace

extern "C" {

struct Matrix {
    const void* data;    // float32: [panels][inputs][16]
                         // bfloat16: [panels][inputs / 2][16][2]
                         // int8, plus 128: [panels][inputs / 4][16][4]
                         // int4: [panels][inputs / 8][16][4], the lower half of a byte first
    const void* scales;  // int8: float32 [panels][16]; int4: float16 [panels][inputs / 32][16]
    const void* minima;  // int4: as scales
    const float* bias;   // [panels][16] or null
    int64_t outputs, inputs;
    int64_t kind;
};

struct Layer {
    const float* attention_norm;  // [hidden]
    const float* qk_norm;         // [heads + kv_heads][head_dim] or null
    const float* mlp_norm;        // [hidden]
    Matrix qkv, output, gate_up, down;  // gate_up: a panel of gates, a panel of ups, and so on
    int64_t window;               // tokens that a token sees, including itself; 0 = all
};

struct Model {
    const Layer* layers;
    const float* norm;          // [hidden]
    const float* feature_norm;  // [hidden], if the model reads features
    Matrix embedding, head, feature;
    int64_t hidden, heads, kv_heads, head_dim, intermediate;
    float norm_eps;
    int64_t bfloat16_cache;
};

// Tokens of several texts, one text after the other. A text has `widths` tokens; it gets logits of
// its last `keeps` and hidden states of its last `states` tokens, at least as many states as logits.
struct Pass {
    const int64_t* tokens;     // [sum of widths]
    const float* features;     // [sum of widths][hidden], or null
    const int64_t* widths;     // [batch]
    const int64_t* keeps;      // [batch]
    const int64_t* states;     // [batch]
    const int64_t* rows;       // [batch]: rows of the cache
    const int64_t* starts;     // [batch]: the first free slot of the cache's row
    const int64_t* positions;  // [sum of widths], or null: equal to the slots
    const uint8_t* mask;       // [batch or 1][width][span]: which slots are seen; null: all before.
                               // Texts with a mask are equally wide
    const int64_t* places;     // [cache_rows][capacity]: positions by slot; for masks and windows
    int64_t mask_stride;       // of a text
    const float* rope;         // [capacity][head_dim / 2][cosine, sine]
    void* cache;               // [layers][cache_rows][2 kv_heads][capacity][head_dim]
    int64_t cache_rows, capacity, batch, span, layers, threads;
    float* hidden;             // [sum of states][hidden], out
    float* logits;             // [sum of keeps][vocabulary], out
};

// What may end a text's draft early: the draft ends after the token at which the estimated chance that
// all of it is accepted falls under `least`.
struct Stop {
    const SuffixAutomaton* text;  // null: nothing ends the draft early, and nothing is estimated
    const SurvivalHead* head;
    int64_t last;  // the text's last token
    double least;
};

// How tokens are drafted after each text: each is the one of the first `choices` outputs with the
// largest logit / temperature + noise. The outputs of all texts are stored pass by pass.
struct Draft {
    const int64_t* lengths;     // [batch], at least 1 and at most `most`
    int64_t most, choices;
    float temperature, limit;   // the limit of margins, by which chances are estimated
    const float* const* noise;  // [batch], of each text [length][choices]; null: none
    const int64_t* ids;         // [choices]: the tokens that outputs stand for; null: output n is token n
    const Stop* stops;          // [batch]
    int64_t* counts;            // [batch], out: how many tokens were drafted
    int64_t* tokens;            // [batch][most], out
    int64_t* places;            // [batch][most], out: their outputs
    // [batch][most], out: where the logits are that they were chosen from; null: they are not kept,
    // and those of each pass replace the ones before.
    int64_t* stored;
    int64_t* finite;            // [batch], out: whether all logits were finite
    double* chances;            // [batch][most], out: that each is accepted if those before are
};

}  // extern "C"

namespace {

struct Range {
    int64_t first, last;
};

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t filled_up(int64_t n) { return ceil_div(n, ALIGN) * ALIGN; }

Range share(int64_t units, int64_t part, int64_t parts) {
    return {units * part / parts, units * (part + 1) / parts};
}

// ---- Products -----------------------------------------------------------------------------------

#ifdef __AVX512BF16__
constexpr bool MULTIPLIES_BFLOAT16 = true;
#else
constexpr bool MULTIPLIES_BFLOAT16 = false;
#endif

constexpr bool integers(int kind) { return kind == INT8 || kind == INT4; }
constexpr bool halves(int kind) { return kind == BFLOAT16 || kind == BFLOAT16_PAIRS; }
constexpr int values_in_word(int kind) { return integers(kind) ? 4 : kind == BFLOAT16_PAIRS ? 2 : 1; }

// `R` rows that are multiplied together, input by input, in the form that the matrix needs.
// Inputs of integer matrices are integers too, with a scale for every 32.
struct Tile {
    const uint32_t* words;  // [inputs / values in a word][R]: float32, two bfloat16 or four int8
    const float* scales;    // [inputs / 32][R]
    const float* sums;      // [inputs / 32][R]: of the integers, times their scale
    const float* totals;    // [R]: of the sums
};

// Turns rows into tiles.
class Encoder {
public:
    Encoder(const Matrix& w, const float* x, int64_t stride, int64_t rows, int64_t tiles)
        : kind_(w.kind), words_in_row_(w.inputs / values_in_word(w.kind)), groups_(w.inputs / GROUP) {
        words_.resize(rows * words_in_row_);
        if (integers(kind_)) {
            scales_.resize(rows * groups_);
            sums_.resize(rows * groups_);
            totals_.resize(rows);
        }
        for (int64_t n = 0; n < tiles; n++) {
            const Range own = share(rows, n, tiles);
            for (int64_t r = own.first; r < own.last; r++)
                encode(x + r * stride, own.first, r - own.first, own.last - own.first);
        }
    }

    // The tile that begins with `row`.
    Tile tile(int64_t row) const {
        return {words_.data() + row * words_in_row_, scales_.data() + row * groups_,
                sums_.data() + row * groups_, totals_.data() + row};
    }

private:
    const int64_t kind_, words_in_row_, groups_;
    static thread_local std::vector<uint32_t> words_;
    static thread_local std::vector<float> scales_, sums_, totals_;

    void encode(const float* x, int64_t first, int64_t r, int64_t step) {
        uint32_t* words = words_.data() + first * words_in_row_ + r;
        if (integers(kind_)) {
            float total = 0;
            for (int64_t g = 0; g < groups_; g++) {
                const int64_t at = first * groups_ + g * step + r;
                quantise(x + g * GROUP, words + g * (GROUP / 4) * step, step, scales_[at], sums_[at]);
                total += sums_[at];
            }
            totals_[first + r] = total;
        } else if (values_in_word(kind_) == 2) {
            for (int64_t k = 0; k < words_in_row_; k += LANES / 2) {
                const Halves halves = narrowed(load(x + 2 * k));
                uint32_t pairs[LANES / 2];
                std::memcpy(pairs, &halves, sizeof halves);
                for (int64_t i = 0; i < LANES / 2 && k + i < words_in_row_; i++)
                    words[(k + i) * step] = pairs[i];
            }
        } else {
            for (int64_t k = 0; k < words_in_row_; k++) std::memcpy(words + k * step, x + k, 4);
        }
    }

    static void quantise(const float* x, uint32_t* to, int64_t step, float& scale, float& sum) {
        const Vec a = load(x), b = load(x + LANES);
        const float largest = largest_of(larger(absolute(a), absolute(b)));
        const float factor = largest ? 127 / largest : 0;
        const Ints numbers[] = {nearest(a * factor), nearest(b * factor)};
        scale = largest / 127 + sum_of(a + b) * 0;  // NaN if an input is NaN or infinite
        sum = scale * sum_of(numbers[0] + numbers[1]);
        uint32_t words[GROUP / 4];
        for (int i = 0; i < 2; i++) {
            const Bytes bytes = converted<int8_t>(numbers[i]);
            std::memcpy(words + 4 * i, &bytes, sizeof bytes);
        }
        for (int i = 0; i < GROUP / 4; i++) to[i * step] = words[i];
    }
};

thread_local std::vector<uint32_t> Encoder::words_;
thread_local std::vector<float> Encoder::scales_, Encoder::sums_, Encoder::totals_;

// Each lane of `sum` plus four unsigned bytes of `a` times four signed ones of `x`.
Ints add_products(Ints sum, Words a, uint32_t x) {
#ifdef __AVX512VNNI__
    sum.part[0] = (Ints::Part)_mm512_dpbusd_epi32((__m512i)sum.part[0], (__m512i)a.part[0], _mm512_set1_epi32(x));
    return sum;
#elif defined(INTEGERS)
    const IntegerRegister bytes = INTEGERS(set1_epi32)(x);
    const IntegerRegister even = INTEGERS(srai_epi16)(INTEGERS(slli_epi16)(bytes, 8), 8);
    const IntegerRegister odd = INTEGERS(srai_epi16)(bytes, 8);
    for (int i = 0; i < PARTS; i++) {
        const IntegerRegister part = (IntegerRegister)a.part[i];
        const IntegerRegister low = part & INTEGERS(set1_epi16)(255), high = INTEGERS(srli_epi16)(part, 8);
        sum.part[i] += (Ints::Part)INTEGERS(madd_epi16)(low, even) + (Ints::Part)INTEGERS(madd_epi16)(high, odd);
    }
    return sum;
#else
    for (int i = 0; i < 32; i += 8) sum += (Ints)((a >> i) & 255) * (int32_t(x << (24 - i)) >> 24);
    return sum;
#endif
}

// The same for bytes of `a` below 16, summed over a group. On processors without the instruction
// above, a lane has two 16-bit sums, each of 16 products of at most 15 x 127.
#if defined(INTEGERS) && !defined(__AVX512VNNI__)
struct SmallSum {
    IntegerRegister part[PARTS] = {};

    void add(Words a, uint32_t x) {
        const IntegerRegister bytes = INTEGERS(set1_epi32)(x);
        for (int i = 0; i < PARTS; i++)
            part[i] = INTEGERS(add_epi16)(part[i], INTEGERS(maddubs_epi16)((IntegerRegister)a.part[i], bytes));
    }
    Ints total() const {
        Ints sum;
        for (int i = 0; i < PARTS; i++)
            sum.part[i] = (Ints::Part)INTEGERS(madd_epi16)(part[i], INTEGERS(set1_epi16)(1));
        return sum;
    }
};
#else
struct SmallSum {
    Ints sum = {};

    void add(Words a, uint32_t x) { sum = add_products(sum, a, x); }
    Ints total() const { return sum; }
};
#endif

// Asks for the weights to come, line by line, while others are multiplied.
struct Ahead {
    const char* at;
    int64_t step;  // bytes to the next panel's line
    int64_t turn;  // bytes to the next line of the first panel, after the last panel's

    void fetch() {
        __builtin_prefetch(at);
        at += step;
    }
};

// Loads weights that `R` rows use, once: otherwise compilers load them anew for every row. Registers
// must be left for the sums of `P` panels and for an input.
template <int R, int P, typename N>
Vector<N> loaded(const Vector<N>* from) {
    Vector<N> weights = *from;
#if defined(__AVX2__) && defined(__GNUC__)
    if constexpr (R > 1 && (R + 1) * P * PARTS < REGISTERS)
        for (auto& part : weights.part) asm("" : "+x"(part));
#endif
    return weights;
}

// `sum` = the rows of a tile times `P` panels of a matrix, from panel number `panel` on.
template <int KIND, int R, int P>
void multiply(const Matrix& w, int64_t panel, const Tile& x, Ahead ahead, Vec (&sum)[R][P]) {
    const int64_t inputs = w.inputs;
    if constexpr (KIND == FLOAT32) {
        const Vec* data = static_cast<const Vec*>(w.data) + panel * inputs;
        const float* values = reinterpret_cast<const float*>(x.words);
        for (int64_t k = 0; k < inputs; k++) {
            Vec weight[P];
            for (int p = 0; p < P; p++) {
                weight[p] = loaded<R, P>(data + p * inputs + k);
                ahead.fetch();
            }
            ahead.at += ahead.turn;
            for (int r = 0; r < R; r++)
                for (int p = 0; p < P; p++) sum[r][p] += weight[p] * values[k * R + r];
        }
    } else if constexpr (halves(KIND)) {
        const Words* data = static_cast<const Words*>(w.data) + panel * inputs / 2;
        for (int64_t k = 0; k < inputs; k += 2) {
            const uint32_t* words = x.words + k / values_in_word(KIND) * R;
            for (int p = 0; p < P; p++) {
                const Words weight = data[(p * inputs + k) / 2];
                ahead.fetch();
#ifdef __AVX512BF16__
                if constexpr (KIND == BFLOAT16_PAIRS) {
                    for (int r = 0; r < R; r++)
                        sum[r][p].part[0] = (Vec::Part)_mm512_dpbf16_ps(
                            (__m512)sum[r][p].part[0], (__m512bh)(__m512i)weight.part[0],
                            (__m512bh)_mm512_set1_epi32(words[r]));
                    continue;
                }
#endif
                const float* values = reinterpret_cast<const float*>(words);
                const Vec even = (Vec)(weight << 16), odd = (Vec)(weight & 0xffff0000);
                for (int r = 0; r < R; r++) {
                    sum[r][p] += even * values[r];
                    sum[r][p] += odd * values[R + r];
                }
            }
            ahead.at += ahead.turn;
        }
    } else {
        constexpr int QUADS = GROUP / 4, VECTORS = KIND == INT8 ? QUADS : QUADS / 2;
        const int64_t groups = inputs / GROUP;
        const Words* data = static_cast<const Words*>(w.data) + panel * groups * VECTORS;
        const uint16_t* scales = static_cast<const uint16_t*>(w.scales) + panel * groups * LANES;
        const uint16_t* minima = static_cast<const uint16_t*>(w.minima) + panel * groups * LANES;
        for (int64_t group = 0; group < groups; group++) {
            const uint32_t* words = x.words + group * QUADS * R;
            std::conditional_t<KIND == INT8, Ints, SmallSum> part[R][P] = {};
#pragma GCC unroll 8
            for (int i = 0; i < VECTORS; i++) {
                for (int p = 0; p < P; p++) {
                    const Words weight = data[(p * groups + group) * VECTORS + i];
                    ahead.fetch();
                    if constexpr (KIND == INT8) {
                        for (int r = 0; r < R; r++)
                            part[r][p] = add_products(part[r][p], weight, words[i * R + r]);
                    } else {
                        const Words low = weight & 0x0f0f0f0f, high = weight >> 4 & 0x0f0f0f0f;
                        for (int r = 0; r < R; r++) {
                            part[r][p].add(low, words[2 * i * R + r]);
                            part[r][p].add(high, words[(2 * i + 1) * R + r]);
                        }
                    }
                }
                ahead.at += ahead.turn;
            }
            for (int p = 0; p < P; p++) {
                Vec scale, minimum;
                if constexpr (KIND == INT4) {
                    scale = from_float16(scales + (p * groups + group) * LANES);
                    minimum = from_float16(minima + (p * groups + group) * LANES);
                }
                for (int r = 0; r < R; r++) {
                    const float own = x.scales[group * R + r];
                    if constexpr (KIND == INT8) {
                        sum[r][p] += converted<float>(part[r][p]) * own;
                    } else {
                        sum[r][p] += converted<float>(part[r][p].total()) * (scale * own);
                        sum[r][p] += minimum * x.sums[group * R + r];
                    }
                }
            }
        }
        if constexpr (KIND == INT8)  // a weight is its number minus 128
            for (int r = 0; r < R; r++)
                for (int p = 0; p < P; p++) sum[r][p] -= 128 * x.totals[r];
    }
}

struct Output {
    float* to;
    int64_t stride;
    bool add;  // whether to add to the values in place
};

template <int KIND, int R, int P>
void project_tile(const Matrix& w, int64_t panel, const Tile& x, Ahead ahead, const Output& out) {
    Vec sum[R][P] = {};
    multiply<KIND, R, P>(w, panel, x, ahead, sum);
    for (int p = 0; p < P; p++) {
        const int64_t column = (panel + p) * LANES, count = w.outputs - column;
        for (int r = 0; r < R; r++) {
            Vec value = sum[r][p];
            float* to = out.to + r * out.stride + column;
            if constexpr (KIND == INT8) value *= load(static_cast<const float*>(w.scales) + column);
            if (w.bias) value += load(w.bias + column);
            if (out.add) value += load_some(to, count);
            store_some(to, value, count);
        }
    }
}

using Project = void (*)(const Matrix&, int64_t, const Tile&, Ahead, const Output&);
using ByPanels = std::array<Project, PANELS>;
using ByRows = std::array<ByPanels, ROWS>;

template <int KIND, int R, int P>
constexpr Project if_it_fits() {
    constexpr int SUMS = integers(KIND) && FEW ? 2 : 1;  // float32 and integers
    if constexpr (P == 1 || R * P * SUMS <= ACCUMULATORS)
        return project_tile<KIND, R, P>;
    else
        return nullptr;
}

template <int KIND, int R, int... P>
constexpr ByPanels by_panels(std::integer_sequence<int, P...>) {
    return {if_it_fits<KIND, R, P + 1>()...};
}

template <int KIND, int... R>
constexpr ByRows by_rows(std::integer_sequence<int, R...>) {
    return {by_panels<KIND, R + 1>(std::make_integer_sequence<int, PANELS>())...};
}

constexpr auto UP_TO_ROWS = std::make_integer_sequence<int, ROWS>();
constexpr ByRows PROJECT[] = {by_rows<FLOAT32>(UP_TO_ROWS), by_rows<BFLOAT16>(UP_TO_ROWS),
                              by_rows<INT8>(UP_TO_ROWS), by_rows<INT4>(UP_TO_ROWS),
#ifdef __AVX512BF16__
                              by_rows<BFLOAT16_PAIRS>(UP_TO_ROWS)
#endif
};

// Bytes of a panel's weights, without scales.
int64_t panel_bytes(const Matrix& w) {
    const int64_t bits = w.kind == FLOAT32 ? 32 : halves(w.kind) ? 16 : w.kind == INT8 ? 8 : 4;
    return w.inputs * LANES * bits / 8;
}

// What tile number `n` of `tiles` asks for while it is multiplied with panels `panel` and after.
// A single tile reads weights from memory, a little ahead. The first of several tiles would wait
// for memory, and memory then for the others; so each of them asks for a share of the weights that
// all of them need next.
Ahead ahead_of(const Matrix& w, int64_t panel, int64_t together, int64_t n, int64_t tiles, bool begins) {
    const int64_t bytes = panel_bytes(w);
    const char* here = static_cast<const char*>(w.data) + panel * bytes;
    if (tiles == 1 || (begins && n == 0)) return {here + AHEAD / together * LINE, bytes, LINE - together * bytes};
    return {here + together * bytes + n * together * bytes / tiles, LINE / tiles, 0};
}

// out = x times the panels of `range`, plus the bias.
void project(const Matrix& w, const float* x, int64_t stride, int64_t rows, Output out, Range range) {
    if (!rows) return;
    const int64_t most = integers(w.kind) && FEW ? ROWS / 2 : ROWS;
    const int64_t tiles = ceil_div(rows, most), tallest = ceil_div(rows, tiles);
    const Encoder encoder(w, x, stride, rows, tiles);
    for (int64_t panel = range.first; panel < range.last;) {
        int64_t together = std::min<int64_t>(PANELS, range.last - panel);
        while (!PROJECT[w.kind][tallest - 1][together - 1]) together--;
        for (int64_t n = 0; n < tiles; n++) {
            const Range own = share(rows, n, tiles);
            const Output part = {out.to + own.first * out.stride, out.stride, out.add};
            const Ahead ahead = ahead_of(w, panel, together, n, tiles, panel == range.first);
            PROJECT[w.kind][own.last - own.first - 1][together - 1](w, panel, encoder.tile(own.first), ahead, part);
        }
        panel += together;
    }
}

int64_t panels(const Matrix& w) { return ceil_div(w.outputs, LANES); }

// Row `index` of a matrix, as float32.
void read_row(const Matrix& w, int64_t index, float* to) {
    const int64_t panel = index / LANES, lane = index % LANES, groups = w.inputs / GROUP;
    const auto word = [&](int64_t k, int64_t values) {  // the word with input k
        const int64_t at = (panel * w.inputs / values + k / values) * LANES + lane;
        return static_cast<const uint32_t*>(w.data)[at];
    };
    for (int64_t k = 0; k < w.inputs; k++) {
        if (w.kind == FLOAT32 || halves(w.kind)) {
            const uint32_t bits = w.kind == FLOAT32 ? word(k, 1) : word(k, 2) >> (16 * (k % 2)) << 16;
            std::memcpy(to + k, &bits, 4);
        } else if (w.kind == INT8) {
            const int32_t number = (word(k, 4) >> (8 * (k % 4)) & 255) - 128;
            to[k] = number * static_cast<const float*>(w.scales)[panel * LANES + lane];
        } else {
            const int64_t group = (panel * groups + k / GROUP) * LANES;
            const Vec scale = from_float16(static_cast<const uint16_t*>(w.scales) + group);
            const Vec minimum = from_float16(static_cast<const uint16_t*>(w.minima) + group);
            const int32_t number = word(k, 8) >> (8 * (k % 4) + 4 * (k / 4 % 2)) & 15;
            to[k] = number * scale[lane] + minimum[lane];
        }
    }
}

// ---- Normalisation, rotation --------------------------------------------------------------------

float inverse_rms(const float* x, int64_t size, float eps) {
    Vec squares = {};
    for (int64_t i = 0; i < size; i += LANES) {
        const Vec value = load_some(x + i, size - i);
        squares += value * value;
    }
    return 1.0f / std::sqrt(sum_of(squares) / size + eps);
}

void normalise(const float* x, const float* weight, int64_t size, float eps, float* to) {
    const float factor = inverse_rms(x, size, eps);
    for (int64_t i = 0; i < size; i++) to[i] = x[i] * factor * weight[i];
}

void rotate(float* head, const float* rope, int64_t size) {
    for (int64_t i = 0; i < size; i += 2) {
        const float a = head[i], b = head[i + 1], cosine = rope[i], sine = rope[i + 1];
        head[i] = a * cosine - b * sine;
        head[i + 1] = a * sine + b * cosine;
    }
}

float stored(float value, float) { return value; }
uint16_t stored(float value, uint16_t) { return narrowed(value); }

// ---- Attention ----------------------------------------------------------------------------------

// What a token sees: keys at positions [first, last). The key at position v lies in slot
// slots[v - first], or in slot v if there are no slots.
struct View {
    int64_t first, last;
    const int32_t* slots;

    int64_t slot(int64_t v) const { return slots ? slots[v - first] : v; }
};

// Softmax over part of the keys: the largest score, the sum of the weights, the weighted values.
struct Part {
    float largest, total;
    float* values;  // [head_dim]
};

// Adds to `part` the part `later`, which follows it in the text.
void join(Part& part, const Part& later, int64_t size) {
    const float largest = std::max(part.largest, later.largest);
    const float a = exponential(part.largest - largest), b = exponential(later.largest - largest);
    for (int64_t i = 0; i < size; i++) part.values[i] = part.values[i] * a + later.values[i] * b;
    part.total = part.total * a + later.total * b;
    part.largest = largest;
}

// Prefetches the cache lines of `B` vectors.
template <int B, typename T>
void fetch(const T* from) {
    for (int b = 0; b < B; b += 64 / (LANES * sizeof(T))) __builtin_prefetch(from + b * LANES);
}

// Scores of `B` times 16 keys, in blocks as `store_key` makes them, for `Q` queries. Prefetches
// the keys' values.
template <int Q, int B, typename T>
void score(const float* const* queries, const T* keys, const T* values, int64_t size, Vec (&scores)[Q][B]) {
    Vec sum[Q][B] = {};
    for (int64_t d = 0; d < size; d += 2) {
        fetch<2 * B>(values + d * B * LANES);
        for (int n = 0; n < 2; n++) {
            for (int b = 0; b < B; b++) {
                const Vec key = load_half(keys + (b * size + d) * LANES, n);
                for (int q = 0; q < Q; q++) sum[q][b] += key * queries[q][d + n];
            }
        }
    }
    std::memcpy(scores, sum, sizeof sum);
}

// Keys of 16 slots lie together: [head_dim][16], in bfloat16 [head_dim / 2][16][2].
void store_key(const float* key, int64_t size, float* to, int64_t lane) {
    for (int64_t d = 0; d < size; d++) to[d * LANES + lane] = key[d];
}
void store_key(const float* key, int64_t size, uint16_t* to, int64_t lane) {
    for (int64_t d = 0; d < size; d++) to[(d / 2 * LANES + lane) * 2 + d % 2] = narrowed(key[d]);
}

// Weighted sums of values. Prefetches as many keys from `next` on.
template <int Q, typename T>
void add_values(const float (*weights)[CHUNK], const View* views, int64_t from, int64_t to, int64_t base,
                const T* next, const T* values, int64_t size, float* const* out) {
    constexpr int STRIP = FEW ? 2 : 4;  // whose sums stay in registers
    const View& view = views[0];
    // All queries see the values before `shared`. A later value may be NaN, so it is only added for
    // the queries that see it.
    int64_t shared = to;
    for (int q = 0; q < Q; q++) shared = std::clamp(views[q].last, from, shared);
    const auto each = [&](const auto& add) {
        for (int64_t v = from; v < shared; v++) add(v, [](int) { return true; });
        for (int64_t v = shared; v < to; v++) add(v, [&](int q) { return v < views[q].last; });
    };
    for (int64_t d = 0; d < size; d += STRIP * LANES) {
        Vec sum[Q][STRIP] = {};
        if (d + STRIP * LANES <= size) {
            each([&](int64_t v, const auto& sees) {
                const T* value = values + view.slot(v) * size + d;
                fetch<STRIP>(next + (v - base) * size + d);
                for (int i = 0; i < STRIP; i++) {
                    const Vec part = load_half(value + i / 2 * 2 * LANES, i % 2);
                    for (int q = 0; q < Q; q++)
                        if (sees(q)) sum[q][i] += part * weights[q][v - base];
                }
            });
            for (int q = 0; q < Q; q++)
                for (int i = 0; i < STRIP; i += 2) put_in_order(sum[q][i], sum[q][i + 1], T());
        } else {
            each([&](int64_t v, const auto& sees) {
                const T* value = values + view.slot(v) * size;
                for (int64_t i = 0; d + i * LANES < size; i++) {
                    const Vec part = load_some(value + d + i * LANES, size - d - i * LANES);
                    for (int q = 0; q < Q; q++)
                        if (sees(q)) sum[q][i] += part * weights[q][v - base];
                }
            });
        }
        for (int q = 0; q < Q; q++)
            for (int64_t i = 0; i < STRIP && d + i * LANES < size; i++)
                store_some(out[q] + d + i * LANES, sum[q][i], size - d - i * LANES);
    }
}

// Attends from queries to the keys of one chunk of the text; false if they see none of the keys.
// Views of several queries either have no slots or are the same. `next` are the keys to come.
template <int Q, typename T>
bool attend_chunk(const float* const* queries, const View* views, int64_t chunk, const T* keys, const T* next,
                  const T* values, int64_t size, float scale, Part* parts) {
    const int64_t base = chunk * CHUNK;
    int64_t from = views[0].first, to = views[0].last;
    for (int q = 1; q < Q; q++) {
        from = std::min(from, views[q].first);
        to = std::max(to, views[q].last);
    }
    from = std::max(from, base);
    to = std::min(to, base + CHUNK);
    if (from >= to) {
        for (int q = 0; q < Q; q++) parts[q].total = 0;
        return false;
    }
    float weights[Q][CHUNK];
    constexpr int BLOCKS = blocks_for(Q);
    const int64_t first = from / LANES * LANES;
    const View& view = views[0];
    for (int64_t v = first; v < to;) {
        const auto in_place = [&](int64_t end) {
            if (!view.slots) return true;
            for (int64_t i = std::max(v, from); i < std::min(end, to); i++)
                if (view.slot(i) != i) return false;
            return true;
        };
        if (v + BLOCKS * LANES <= to && in_place(v + BLOCKS * LANES)) {
            Vec scores[Q][BLOCKS];
            score<Q, BLOCKS>(queries, keys + v * size, values + v * size, size, scores);
            for (int q = 0; q < Q; q++) std::memcpy(weights[q] + (v - base), scores[q], sizeof scores[q]);
            v += BLOCKS * LANES;
            continue;
        }
        Vec scores[Q][1];
        if (in_place(v + LANES)) {
            score<Q, 1>(queries, keys + v * size, values + v * size, size, scores);
        } else {
            for (int64_t i = std::max(v, from); i < std::min(v + LANES, to); i++) {
                const int64_t slot = view.slot(i);
                Vec found[Q][1];
                score<Q, 1>(queries, keys + slot / LANES * LANES * size, values + slot * size, size, found);
                for (int q = 0; q < Q; q++) scores[q][0].set(i - v, found[q][0][slot % LANES]);
            }
        }
        for (int q = 0; q < Q; q++) std::memcpy(weights[q] + (v - base), scores[q], sizeof scores[q]);
        v += LANES;
    }
    const Ints lane = lane_numbers();
    float* sums[Q];
    for (int q = 0; q < Q; q++) {
        Vec largest = -INFINITE;
        for (int64_t v = first; v < to; v += LANES) {
            const int32_t begin = std::max(views[q].first - v, int64_t(-1));
            const int32_t end = std::min(views[q].last - v, int64_t(LANES));
            float* at = weights[q] + (v - base);
            const Vec seen = chosen((lane >= begin) & (lane < end), load(at) * scale, Vec(-INFINITE));
            largest = larger(largest, seen);
            std::memcpy(at, &seen, sizeof seen);
        }
        const float most = largest_of(largest);
        Vec total = {};
        for (int64_t v = first; v < to; v += LANES) {
            float* at = weights[q] + (v - base);
            const Vec weight = most == -INFINITE ? Vec{} : exponential(load(at) - most);
            total += weight;
            std::memcpy(at, &weight, sizeof weight);
        }
        parts[q].largest = most;
        parts[q].total = sum_of(total);
        sums[q] = parts[q].values;
    }
    add_values<Q>(weights, views, from, to, base, next, values, size, sums);
    return true;
}

// ---- The pass -----------------------------------------------------------------------------------

// Buffers of one pass, kept for the next.
class Workspace {
public:
    void reset(int64_t floats) {
        if (floats > int64_t(memory_.size())) memory_.assign(floats, 0.0f);
        std::fill(memory_.begin(), memory_.begin() + floats, 0.0f);
        next_ = memory_.data();
    }

    float* take(int64_t floats) {
        float* taken = next_;
        next_ += filled_up(floats);
        return taken;
    }

private:
    std::vector<float> memory_;
    float* next_ = nullptr;
};

// Blocks of queries of one text and key head.
struct Unit {
    int64_t text, kv_head;
    Range blocks;
};

template <typename T>
class Forward {
public:
    Forward(const Model& model, const Pass& pass)
        : m(model), p(pass), firsts(before(p.widths)), kept_before(before(p.keeps)),
          states_before(before(p.states)), text_of(texts()), rows(firsts.back()), kept(kept_before.back()),
          group(m.heads / m.kv_heads), heads(m.heads + 2 * m.kv_heads), chunks(ceil_div(reach(), CHUNK)),
          hidden_stride(filled_up(m.hidden)), qkv_stride(filled_up(heads * m.head_dim)),
          mixed_stride(filled_up(m.heads * m.head_dim)),
          gated_stride(ceil_div(m.intermediate, LANES) * 2 * LANES),
          active_stride(filled_up(m.intermediate)) {
        find_units();
        // Few queries and many keys: threads that would be idle share the keys' chunks.
        const int64_t count = units.size(), turns = ceil_div(count, p.threads);
        spread = chunks > 1 && blocks < 8 * p.threads && 8 * turns * p.threads > 9 * count;
        part_size = m.head_dim + 2;
        const int64_t parts = spread ? rows * m.heads * chunks * part_size : 0;
        static thread_local Workspace memory;
        memory.reset(filled_up(rows * hidden_stride) * 2 + filled_up(rows * qkv_stride) +
                     filled_up(rows * mixed_stride) + filled_up(rows * gated_stride) +
                     filled_up(rows * active_stride) + filled_up(parts));
        hidden = memory.take(rows * hidden_stride);
        normed = memory.take(rows * hidden_stride);
        qkv = memory.take(rows * qkv_stride);
        mixed = memory.take(rows * mixed_stride);
        gated = memory.take(rows * gated_stride);
        active = memory.take(rows * active_stride);
        partial = memory.take(parts);
        if (p.mask) find_slots();
    }

    void run() {
#pragma omp parallel num_threads(p.threads)
        {
            const int thread = omp_get_thread_num(), threads = omp_get_num_threads();
            for (int64_t r = thread; r < rows; r += threads)
                read_row(m.embedding, p.tokens[r], hidden + r * hidden_stride);
            if (p.features) add_features(thread, threads);
#pragma omp barrier
            for (int64_t n = 0; n < p.layers; n++) layer(n, thread, threads);
            for (int64_t b = 0; b < p.batch; b++) normalise_last(b, thread, threads);
#pragma omp barrier
            const Range own = share(panels(m.head), thread, threads);
            project(m.head, normed, hidden_stride, kept, {p.logits, m.head.outputs, false}, own);
            if (!all_finite(own)) finite = false;
        }
    }

    std::atomic<bool> finite = true;  // whether all logits are finite

private:
    const Model& m;
    const Pass& p;
    const std::vector<int64_t> firsts, kept_before, states_before;  // [batch + 1]: of texts before
    const std::vector<int32_t> text_of;                             // [rows]
    const int64_t rows, kept, group, heads, chunks;
    const int64_t hidden_stride, qkv_stride, mixed_stride, gated_stride, active_stride;
    std::vector<Unit> units;
    int64_t blocks, part_size;  // total number of blocks of queries
    bool spread;
    float *hidden, *normed, *qkv, *mixed, *gated, *active, *partial;
    std::vector<int32_t> slots;        // [rows][span]: the slots that a token sees, in order
    std::vector<int64_t> seen;         // [rows]: how many slots it sees

    std::vector<int64_t> before(const int64_t* counts) const {
        std::vector<int64_t> sums(p.batch + 1);
        for (int64_t b = 0; b < p.batch; b++) sums[b + 1] = sums[b] + counts[b];
        return sums;
    }

    std::vector<int32_t> texts() const {
        std::vector<int32_t> found(firsts.back());
        for (int64_t b = 0; b < p.batch; b++)
            std::fill(found.begin() + firsts[b], found.begin() + firsts[b + 1], int32_t(b));
        return found;
    }

    // A text's last hidden states, and those of them that the head reads.
    void normalise_last(int64_t b, int thread, int threads) {
        for (int64_t i = states_before[b] + thread; i < states_before[b + 1]; i += threads) {
            const int64_t back = states_before[b + 1] - i;  // from the text's end
            float* to = p.hidden + i * m.hidden;
            normalise(hidden + (firsts[b + 1] - back) * hidden_stride, m.norm, m.hidden, m.norm_eps, to);
            if (back <= p.keeps[b])
                std::memcpy(normed + (kept_before[b + 1] - back) * hidden_stride, to,
                            m.hidden * sizeof(float));
        }
    }

    // Adds the projected features to the embeddings; each thread computes its own outputs.
    void add_features(int thread, int threads) {
        for (int64_t r = thread; r < rows; r += threads)
            normalise(p.features + r * m.hidden, m.feature_norm, m.hidden, m.norm_eps,
                      normed + r * hidden_stride);
#pragma omp barrier
        project(m.feature, normed, hidden_stride, rows, {hidden, hidden_stride, true},
                share(panels(m.feature), thread, threads));
    }

    // Whether the logits of these panels are finite.
    bool all_finite(Range own) const {
        const int64_t first = own.first * LANES, last = std::min(own.last * LANES, m.head.outputs);
        Vec zeros = {};  // NaN if a logit is not finite
        for (int64_t i = 0; i < kept; i++) {
            const float* row = p.logits + i * m.head.outputs;
            for (int64_t n = first; n < last; n += LANES) zeros += load_some(row + n, last - n) * 0;
        }
        return sum_of(zeros) == 0;
    }

    // The end of the part of the text that any token sees.
    int64_t reach() const {
        int64_t last = p.span;
        if (p.positions && p.mask)
            for (int64_t r = 0; r < rows; r++) last = std::max(last, p.positions[r] + 1);
        return last;
    }

    void layer(int64_t n, int thread, int threads) {
        const Layer& w = m.layers[n];
        normalise_rows(w.attention_norm, thread, threads);
        project(w.qkv, normed, hidden_stride, rows, {qkv, qkv_stride, false},
                share(panels(w.qkv), thread, threads));
#pragma omp barrier
        for (int64_t head = thread; head < heads; head += threads) rotate_and_store(w, n, head);
#pragma omp barrier
        attend(w, n, thread, threads);
#pragma omp barrier
        project(w.output, mixed, mixed_stride, rows, {hidden, hidden_stride, true},
                share(panels(w.output), thread, threads));
#pragma omp barrier
        normalise_rows(w.mlp_norm, thread, threads);
        const Range pairs = share(panels(w.gate_up) / 2, thread, threads);
        project(w.gate_up, normed, hidden_stride, rows, {gated, gated_stride, false},
                {2 * pairs.first, 2 * pairs.last});
        activate(pairs);
#pragma omp barrier
        project(w.down, active, active_stride, rows, {hidden, hidden_stride, true},
                share(panels(w.down), thread, threads));
#pragma omp barrier
    }

    void normalise_rows(const float* weight, int thread, int threads) {
        for (int64_t r = thread; r < rows; r += threads)
            normalise(hidden + r * hidden_stride, weight, m.hidden, m.norm_eps,
                      normed + r * hidden_stride);
#pragma omp barrier
    }

    void activate(Range pairs) {
        for (int64_t r = 0; r < rows; r++) {
            for (int64_t n = pairs.first; n < pairs.last; n++) {
                const float* from = gated + r * gated_stride + 2 * n * LANES;
                const Vec gate = load(from), up = load(from + LANES);
                const Vec value = gate / (1.0f + exponential(-gate)) * up;
                store_some(active + r * active_stride + n * LANES, value, m.intermediate - n * LANES);
            }
        }
    }

    T* cache(int64_t layer, int64_t b, int64_t head) const {
        const int64_t row = (layer * p.cache_rows + p.rows[b]) * 2 * m.kv_heads + head;
        return static_cast<T*>(p.cache) + row * p.capacity * m.head_dim;
    }

    int64_t position(int64_t r) const {
        return p.positions ? p.positions[r] : slot_of(r);
    }

    int64_t slot_of(int64_t r) const { return p.starts[text_of[r]] + r - firsts[text_of[r]]; }

    // Rotates queries in place, and writes keys and values to the cache.
    void rotate_and_store(const Layer& w, int64_t n, int64_t head) {
        const int64_t size = m.head_dim;
        for (int64_t r = 0; r < rows; r++) {
            float* own = qkv + r * qkv_stride + head * size;
            if (head < m.heads + m.kv_heads) {
                if (w.qk_norm) normalise(own, w.qk_norm + head * size, size, m.norm_eps, own);
                rotate(own, p.rope + position(r) * size, size);
            }
            if (head < m.heads) continue;
            const int64_t slot = slot_of(r);
            T* to = cache(n, text_of[r], head - m.heads);
            if (head < m.heads + m.kv_heads) {
                store_key(own, size, to + slot / LANES * LANES * size, slot % LANES);
            } else {
                for (int64_t d = 0; d < size; d++) to[slot * size + d] = stored(own[d], T());
            }
        }
    }

    void find_slots() {
        slots.resize(rows * p.span);
        seen.resize(rows);
        for (int64_t r = 0; r < rows; r++) {
            const int64_t b = text_of[r];
            const uint8_t* mask = p.mask + b * p.mask_stride + (r - firsts[b]) * p.span;
            int64_t count = 0;
            for (int64_t slot = 0; slot < p.span; slot++)
                if (mask[slot]) slots[r * p.span + count++] = slot;
            seen[r] = count;
        }
    }

    View view(const Layer& w, int64_t r) const {
        if (!p.mask) {
            const int64_t last = slot_of(r) + 1;
            return {w.window ? std::max<int64_t>(0, last - w.window) : 0, last, nullptr};
        }
        const int32_t* own = slots.data() + r * p.span;
        int64_t skipped = 0;
        if (w.window)
            while (p.places[p.rows[text_of[r]] * p.capacity + own[skipped]] <= position(r) - w.window)
                skipped++;
        const int64_t count = seen[r] - skipped, first = std::max<int64_t>(0, position(r) + 1 - count);
        return {first, first + count, own + skipped};
    }

    // Blocks of queries of one text and key head that read the keys together.
    void find_units() {
        std::vector<int64_t> counts(p.batch);
        blocks = 0;
        for (int64_t b = 0; b < p.batch; b++) {
            counts[b] = blocks_of(b);
            blocks += counts[b] * m.kv_heads;
        }
        const int64_t together = std::clamp<int64_t>(blocks / (2 * p.threads), 1, TOGETHER);
        for (int64_t b = 0; b < p.batch; b++) {
            const int64_t bundles = ceil_div(counts[b], together);
            for (int64_t i = 0; i < m.kv_heads * bundles; i++)
                units.push_back({b, i / bundles, share(counts[b], i % bundles, bundles)});
        }
    }

    int64_t blocks_of(int64_t b) const {
        if (!p.mask) return ceil_div(p.widths[b] * group, QUERIES);
        return ceil_div(group, QUERIES) * p.widths[b];
    }

    void attend(const Layer& w, int64_t n, int thread, int threads) {
        const int64_t count = units.size();
        if (!spread) {
            for (int64_t i = thread; i < count; i += threads) {
                const Unit& next = units[std::min(i + threads, count - 1)];
                attend_blocks(w, n, units[i], {0, chunks}, cache(n, next.text, next.kv_head));
            }
            return;
        }
        const Range own = share(count * chunks, thread, threads);
        for (int64_t i = own.first; i < own.last; i++)
            attend_blocks(w, n, units[i / chunks], {i % chunks, i % chunks + 1}, cache(n, units[i / chunks].text, 0));
#pragma omp barrier
        for (int64_t i = thread; i < rows * m.heads; i += threads) {
            Part all = {0, 0, mixed + i / m.heads * mixed_stride + i % m.heads * m.head_dim};
            for (int64_t chunk = 0; chunk < chunks; chunk++) {
                float* memory = partial + (i * chunks + chunk) * part_size;
                add_part(all, {memory[0], memory[1], memory + 2});
            }
            finish(all);
        }
    }

    void add_part(Part& all, const Part& part) {
        if (part.total == 0) return;
        if (all.total == 0) {
            all.largest = part.largest;
            all.total = part.total;
            std::memcpy(all.values, part.values, m.head_dim * sizeof(float));
        } else {
            join(all, part, m.head_dim);
        }
    }

    void finish(Part& all) {
        for (int64_t d = 0; d < m.head_dim; d++) all.values[d] /= all.total;
    }

    // A unit's blocks of queries, chunk by chunk, so that keys stay in the cache.
    // `after`: the keys that the thread reads after those of this unit.
    void attend_blocks(const Layer& w, int64_t n, const Unit& unit, Range seen_chunks, const T* after) {
        const auto [b, kv_head, own_blocks] = unit;
        const auto [first, last] = own_blocks;
        Part all[TOGETHER][QUERIES] = {};
        for (int64_t chunk = seen_chunks.first; chunk < seen_chunks.last; chunk++) {
            for (int64_t block = first; block < last; block++) {
                const Range own = queries_of(b, block);
                attend_queries(w, n, b, kv_head, own, chunk, after, all[block - first]);
            }
        }
        for (int64_t block = first; block < last && !spread; block++) {
            const Range own = queries_of(b, block);
            for (int64_t q = 0; q < own.last - own.first; q++) finish(all[block - first][q]);
        }
    }

    // The queries of a block, among the text's, token by token. With a mask all are of one token.
    Range queries_of(int64_t b, int64_t block) const {
        if (!p.mask) return {block * QUERIES, std::min((block + 1) * QUERIES, p.widths[b] * group)};
        const int64_t of_token = ceil_div(group, QUERIES), token = block / of_token;
        const int64_t first = token * group + block % of_token * QUERIES;
        return {first, std::min(first + QUERIES, (token + 1) * group)};
    }

    // `own`: at most `Q` queries.
    template <int Q = QUERIES>
    void attend_queries(const Layer& w, int64_t n, int64_t b, int64_t kv_head, Range own, int64_t chunk,
                        const T* after, Part* all) {
        if constexpr (Q > 1)
            if (own.last - own.first < Q) return attend_queries<Q - 1>(w, n, b, kv_head, own, chunk, after, all);
        const int64_t size = m.head_dim;
        const float* queries[Q];
        View views[Q];
        Part parts[Q] = {};
        static thread_local std::vector<float> scratch;
        scratch.resize(Q * size);
        for (int q = 0; q < Q; q++) {
            const int64_t r = firsts[b] + (own.first + q) / group;
            const int64_t head = kv_head * group + (own.first + q) % group;
            queries[q] = qkv + r * qkv_stride + head * size;
            views[q] = view(w, r);
            all[q].values = mixed + r * mixed_stride + head * size;
            float* memory = partial + ((r * m.heads + head) * chunks + chunk) * part_size;
            parts[q].values = spread ? memory + 2 : scratch.data() + q * size;
        }
        const T* keys = cache(n, b, kv_head);
        const T* next = (chunk + 1) * CHUNK < views[0].last ? keys + (chunk + 1) * CHUNK * size : after;
        attend_chunk<Q>(queries, views, chunk, keys, next, cache(n, b, m.kv_heads + kv_head), size,
                        1.0f / std::sqrt(float(size)), parts);
        for (int q = 0; q < Q; q++) {
            if (spread) {
                parts[q].values[-2] = parts[q].largest;
                parts[q].values[-1] = parts[q].total;
            } else {
                add_part(all[q], parts[q]);
            }
        }
    }
};

}  // namespace

extern "C" int multiplies_bfloat16() { return MULTIPLIES_BFLOAT16; }

template <typename T>
static int run(const Model& model, const Pass& pass) {
    Forward<T> forward(model, pass);
    forward.run();
    return forward.finite ? 0 : 2;
}

// Returns 0; 1 if a token is not in the vocabulary (nothing is computed); 2 if a logit is not
// finite.
extern "C" int forward(const Model* model, const Pass* pass) {
    const int64_t* token = pass->tokens;
    for (int64_t b = 0; b < pass->batch; b++)
        for (int64_t i = 0; i < pass->widths[b]; i++, token++)
            if (*token < 0 || *token >= model->embedding.outputs) return 1;
    return model->bfloat16_cache ? run<uint16_t>(*model, *pass) : run<float>(*model, *pass);
}

namespace {

bool finite(const float* values, int64_t count) {
    return std::all_of(values, values + count, [](float value) { return std::isfinite(value); });
}

// Follows a text's draft and estimates the chances of its tokens.
class Running {
  public:
    explicit Running(const Stop& stop) : stop_(stop), last_(stop.last) {
        if (stop.text) end_ = stop.text->suffix();
    }

    // The chance of the next token.
    double add(const Draft& draft, const float* logits, const float* noise, int64_t place, int64_t token) {
        if (drafted_++) stop_.text->append(end_, int32_t(last_));
        const int64_t before = std::exchange(last_, token);
        const double log_prob = stop_.head->surprise ? log_prob_of(draft, logits, place) : 0.0;
        const double margin = margin_of(draft, logits, noise, place);
        const double chance = stop_.head->chance(token, before, log_prob, margin, end_.match, end_.guess == token);
        whole_ *= chance;
        return chance;
    }

    bool estimates() const { return stop_.text; }
    bool goes_on() const { return !stop_.text || whole_ >= stop_.least; }

  private:
    const Stop& stop_;
    Suffix end_ = {};
    int64_t last_, drafted_ = 0;
    double whole_ = 1.0;

    // How far the score of the chosen output is above every other's.
    static double margin_of(const Draft& draft, const float* logits, const float* noise, int64_t place) {
        const Ints lanes = lane_numbers();
        Vec second = -std::numeric_limits<float>::infinity();
        float own = 0;
        for (int64_t i = 0; i < draft.choices; i += LANES) {
            const int64_t count = std::min<int64_t>(LANES, draft.choices - i);
            Vec score = load_some(logits + i, count) / draft.temperature;
            if (noise) score += load_some(noise + i, count);
            if (i <= place && place < i + LANES) {
                own = score[place - i];
                score.set(place - i, -std::numeric_limits<float>::infinity());
            }
            second = larger(second, chosen(lanes < int32_t(count), score, second));
        }
        return std::min(double(own) - largest_of(second), double(draft.limit));
    }

    static double log_prob_of(const Draft& draft, const float* logits, int64_t place) {
        const float largest = *std::max_element(logits, logits + draft.choices);
        double total = 0;
        for (int64_t i = 0; i < draft.choices; i += LANES) {
            const int64_t count = std::min<int64_t>(LANES, draft.choices - i);
            const Vec above = exponential((load_some(logits + i, count) - Vec(largest)) / draft.temperature);
            total += sum_of(chosen(lane_numbers() < int32_t(count), above, Vec(0.0f)));
        }
        return (logits[place] - largest) / draft.temperature - std::log(total);
    }
};

}  // namespace

// One pass like that of `forward`, with one row of logits for each text, then passes that read the
// drafted tokens but the last of each text. Texts whose draft is complete take no part in them.
extern "C" int draft(const Model* model, const Pass* first, const Draft* draft) {
    Pass pass = *first;
    std::vector<int64_t> going(pass.batch), rows, starts, ones(pass.batch, 1), tokens;
    std::iota(going.begin(), going.end(), 0);
    std::vector<Running> running;
    for (int64_t b = 0; b < pass.batch; b++) {
        running.emplace_back(draft->stops[b]);
        draft->counts[b] = 0, draft->finite[b] = 1;
    }
    std::vector<float> features;
    int64_t stored = 0;
    int outcome = 0;
    while (!going.empty()) {
        const int found = forward(model, &pass);
        if (found == 1) return found;
        outcome = std::max(outcome, found);
        std::vector<int64_t> still, still_rows, still_starts, still_tokens;
        std::vector<float> seen;
        const float* hidden = pass.hidden;
        int64_t span = 0;
        for (size_t n = 0; n < going.size(); n++, stored++) {
            const int64_t b = going[n], i = draft->counts[b]++, at = b * draft->most + i;
            const float* logits = pass.logits + n * model->head.outputs;
            const float* noise = draft->noise ? draft->noise[b] + i * draft->choices : nullptr;
            const int64_t place = choose(logits, draft->choices, draft->temperature, noise);
            draft->places[at] = place;
            if (draft->stored) draft->stored[at] = stored;
            if (found == 2 && !finite(logits, model->head.outputs)) draft->finite[b] = 0;
            draft->tokens[at] = draft->ids ? draft->ids[place] : place;
            if (running[b].estimates())
                draft->chances[at] = running[b].add(*draft, logits, noise, place, draft->tokens[at]);
            hidden += pass.states[n] * model->hidden;
            if (i + 1 == draft->lengths[b] || !running[b].goes_on()) continue;
            still.push_back(b), still_rows.push_back(pass.rows[n]), still_tokens.push_back(draft->tokens[at]);
            still_starts.push_back(pass.starts[n] + pass.widths[n]);
            span = std::max(span, still_starts.back() + 1);
            if (pass.features) seen.insert(seen.end(), hidden - model->hidden, hidden);
        }
        if (draft->stored) pass.logits += going.size() * model->head.outputs;
        pass.hidden += hidden - pass.hidden;
        going.swap(still), rows.swap(still_rows), starts.swap(still_starts), tokens.swap(still_tokens);
        features.swap(seen);
        if (pass.features) pass.features = features.data();
        pass.tokens = tokens.data(), pass.rows = rows.data(), pass.starts = starts.data();
        pass.widths = pass.keeps = pass.states = ones.data();
        pass.batch = going.size(), pass.span = span;
    }
    return outcome;
}
