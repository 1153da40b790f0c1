// The best drafts of a batch, as `best_drafts` in `control/batching/plan.py` defines them.

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <tuple>
#include <vector>

#include "vectors.h"

namespace {

struct Outlook {
    int64_t layers;
    const int64_t* inputs;        // [layers]
    const int64_t* outputs;       // [layers], multiples of LANES: weights are padded with zeros
    const float* const* weights;  // of each layer, [inputs][outputs]; price and stop come last
    const float* const* biases;
    int64_t drafters, depth;
};

struct Seconds {  // `Here` in `plan.py`
    const double* verifying;
    const double *once, *each, *begins, *begun;  // [drafters]
    int64_t points;
    const double* unread;   // [points]
    const double* reading;  // [drafters][points]
};

struct Look {
    int64_t rows;
    const float* observations;
    int64_t row_stride, feature_stride;  // in numbers
    const double* unread;                // [rows][drafters]
    double price, stop;
    double rate, verify, draft, read;
    int64_t alike;  // thresholds at which all rows might draft alike, a multiple of `AT_ONCE`
    const float* thresholds;
};

struct Plan {
    int64_t* actions;  // [rows], drafter * (depth + 1) + length
    double gain;
    double together;  // what the best plan in which all rows draft alike is worth
    int64_t threshold, drafter, length;  // that plan
};

typedef std::vector<float> Floats;
typedef std::vector<double> Doubles;

constexpr int AT_ONCE = 4;  // thresholds that are evaluated together

INLINED Vec hyperbolic_tangent(Vec x) { return Vec(1.0f) - Vec(2.0f) / (exponential(x + x) + 1.0f); }

// One layer for several inputs.
template <int N>
void apply(const float* weights, const float* biases, int64_t inputs, int64_t outputs, const float* const* from, float* const* to) {
    for (int64_t column = 0; column < outputs; column += LANES) {
        Vec sums[N];
        for (Vec& sum : sums) sum = load(biases + column);
        for (int64_t row = 0; row < inputs; row++) {
            const Vec weight = load(weights + row * outputs + column);
            for (int n = 0; n < N; n++) sums[n] += Vec(from[n][row]) * weight;
        }
        for (int n = 0; n < N; n++) store_some(to[n] + column, sums[n], LANES);
    }
}

class Network {
  public:
    explicit Network(const Outlook& outlook) : outlook_(outlook) {
        const int64_t widest = *std::max_element(outlook.outputs, outlook.outputs + outlook.layers);
        for (Floats& side : sides_) side.resize(AT_ONCE * widest);
        widest_ = widest;
        seen_.resize(outlook.outputs[0]);
    }

    // Reads a row's observation.
    void read(const Look& look, int64_t row) {
        const int64_t columns = outlook_.outputs[0], features = outlook_.inputs[0] - 2;
        const float* observation = look.observations + row * look.row_stride;
        const float* weights = outlook_.weights[0];
        for (int64_t column = 0; column < columns; column += LANES) {
            Vec sum = load(outlook_.biases[0] + column);
            for (int64_t f = 0; f < features; f++)
                sum += Vec(observation[f * look.feature_stride]) * load(weights + f * columns + column);
            store_some(seen_.data() + column, sum, LANES);
        }
    }

    // The outputs for that row at some pairs of prices; `result[n]` is valid until the next call.
    template <int N>
    void at(const float* price, const float* stop, const float** result) {
        const int64_t columns = outlook_.outputs[0];
        const float* told = outlook_.weights[0] + (outlook_.inputs[0] - 2) * columns;
        float *from[N], *to[N];
        for (int n = 0; n < N; n++) from[n] = sides_[0].data() + n * widest_, to[n] = sides_[1].data() + n * widest_;
        for (int64_t column = 0; column < columns; column += LANES)
            for (int n = 0; n < N; n++)
                store_some(from[n] + column,
                           load(seen_.data() + column) + Vec(price[n]) * load(told + column) +
                               Vec(stop[n]) * load(told + columns + column), LANES);
        for (int64_t layer = 1; layer < outlook_.layers; layer++) {
            for (int n = 0; n < N; n++)
                for (int64_t column = 0; column < outlook_.outputs[layer - 1]; column += LANES)
                    store_some(from[n] + column, hyperbolic_tangent(load(from[n] + column)), LANES);
            apply<N>(outlook_.weights[layer], outlook_.biases[layer], outlook_.inputs[layer],
                     outlook_.outputs[layer], from, to);
            std::swap_ranges(from, from + N, to);
        }
        std::copy_n(from, N, result);
    }

  private:
    const Outlook& outlook_;
    int64_t widest_;
    Floats sides_[2], seen_;
};

float chance(float value) { return std::min(std::max(value, 0.0f), 1.0f); }

// Linear between the points, constant beyond them.
double interpolated(double at, const double* points, const double* values, int64_t count) {
    const int64_t above = std::upper_bound(points, points + count, at) - points;
    if (above == 0) return values[0];
    if (above == count) return values[count - 1];
    const double share = (at - points[above - 1]) / (points[above] - points[above - 1]);
    return values[above - 1] + share * (values[above] - values[above - 1]);
}

// Seconds by which a drafter's first pass grows as rows join it, [rows][drafters]; those with the
// least to read join first.
Doubles catching_up(const Outlook& outlook, const Seconds& seconds, const Look& look) {
    Doubles found(look.rows * outlook.drafters);
    std::vector<int64_t> order(look.rows);
    for (int64_t d = 0; d < outlook.drafters; d++) {
        const double* reading = seconds.reading + d * seconds.points;
        if (reading[seconds.points - 1] <= reading[0]) continue;
        const auto unread = [&](int64_t row) { return look.unread[row * outlook.drafters + d]; };
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return unread(a) < unread(b); });
        double read = 0.0, before = interpolated(0.0, seconds.unread, reading, seconds.points);
        for (const int64_t row : order) {
            read += unread(row);
            const double now = interpolated(read, seconds.unread, reading, seconds.points);
            found[row * outlook.drafters + d] = now - before;
            before = now;
        }
    }
    return found;
}

// Each row's drafter and length. `value` is [rows][drafters][depth + 1].
void choose(const Outlook& outlook, const Seconds& seconds, const Look& look, const Doubles& value, Plan& plan) {
    const int64_t drafters = outlook.drafters, lengths = outlook.depth + 1;
    const auto shared = [&](int64_t d, int64_t length) {
        return look.rate * (look.draft * seconds.once[d] * length + seconds.begins[d] * (length > 0));
    };
    Doubles best = value;  // of at most this length
    for (int64_t line = 0; line < look.rows * drafters; line++)
        for (int64_t k = 1; k < lengths; k++)
            best[line * lengths + k] = std::max(best[line * lengths + k], best[line * lengths + k - 1]);
    std::vector<int64_t> caps(drafters, lengths - 1), dearest(drafters), deepest(drafters, 0);
    std::iota(dearest.begin(), dearest.end(), 0);
    std::stable_sort(dearest.begin(), dearest.end(), [&](int64_t a, int64_t b) { return shared(a, 1) > shared(b, 1); });
    for (const int64_t d : dearest) {
        Doubles total(lengths);
        for (int64_t row = 0; row < look.rows; row++) {
            double without = 0.0;
            for (int64_t o = 0; o < drafters; o++)
                if (o != d) without = std::max(without, best[(row * drafters + o) * lengths + caps[o]]);
            const double* own = &best[(row * drafters + d) * lengths];
            for (int64_t k = 0; k < lengths; k++) total[k] += std::max(own[k], without);
        }
        for (int64_t k = 0; k < lengths; k++) total[k] -= shared(d, k);
        caps[d] = std::max_element(total.begin(), total.end()) - total.begin();
    }
    plan.gain = 0.0;
    for (int64_t row = 0; row < look.rows; row++) {
        const double* own = &value[row * drafters * lengths];
        int64_t action = 0;
        for (int64_t d = 0; d < drafters; d++)
            for (int64_t k = 1; k <= caps[d]; k++)
                if (own[d * lengths + k] > own[action]) action = d * lengths + k;
        plan.actions[row] = action;
        plan.gain += own[action];
        int64_t& depth = deepest[action / lengths];
        depth = std::max(depth, action % lengths);
    }
    for (int64_t d = 0; d < drafters; d++) plan.gain -= shared(d, deepest[d]);
}

// The best plan in which all rows draft alike. `worth` and `drafted`, summed over the rows, are
// [thresholds][drafters][depth].
void choose_alike(const Outlook& outlook, const Seconds& seconds, const Look& look, const Doubles& worth,
                  const Doubles& drafted, const Doubles& debt, Plan& plan) {
    const int64_t drafters = outlook.drafters, depth = outlook.depth;
    plan.together = 0.0, plan.length = 0;
    for (int64_t line = 0; line < look.alike * drafters; line++) {
        const int64_t d = line % drafters;
        double begun = look.rate * (seconds.begins[d] + look.rows * seconds.begun[d]);
        for (int64_t row = 0; row < look.rows; row++) begun += debt[row * drafters + d];
        double accepted = 0.0, tokens = 0.0;
        for (int64_t k = 0; k < depth; k++) {
            accepted += worth[line * depth + k], tokens += drafted[line * depth + k];
            const int64_t below = std::min(int64_t(tokens), look.rows * depth - 1);
            const double verifying = seconds.verifying[below] +
                (tokens - below) * (seconds.verifying[below + 1] - seconds.verifying[below]) - seconds.verifying[0];
            const double drafting = seconds.once[d] * (k + 1) + seconds.each[d] * tokens;
            const double value = accepted - look.rate * (look.verify * verifying + look.draft * drafting) - begun;
            if (value > plan.together)
                plan.together = value, plan.threshold = line / drafters, plan.drafter = d, plan.length = k + 1;
        }
    }
}

struct Token {
    double survival;
    int64_t depth, row;
};

}  // namespace

extern "C" {

// The most valuable budget of drafted tokens, as `likeliest` in `control/batching/allotment.py` defines
// it. `survivals` stand row after row. `counts` holds how many tokens each row drafted, and then how
// many of them are in the budget. Returns the price of a verified token.
double allot_tokens(int64_t rows, int64_t* counts, const double* survivals, const double* seconds,
                    int64_t sizes, double before, double worth) {
    std::vector<Token> tokens;
    for (int64_t row = 0; row < rows; row++) {
        const int64_t length = counts[row];
        counts[row] = 0;
        double least = 1;
        for (int64_t k = 0; k < length; k++) {
            least = std::min(least, *survivals++);
            if (least > 0) tokens.push_back({least, k, row});
        }
    }
    std::sort(tokens.begin(), tokens.end(), [](const Token& a, const Token& b) {
        return std::make_tuple(-a.survival, a.depth, a.row) < std::make_tuple(-b.survival, b.depth, b.row);
    });
    const int64_t count = tokens.size();
    double sum = 0, most = 0;
    int64_t budget = 0;
    for (int64_t n = 0; n <= count; n++) {
        const double value = worth > 0 ? sum - worth * seconds[n] : (rows + sum) / (before + seconds[n]);
        if (n == 0 || value > most) most = value, budget = n;
        if (n < count) sum += tokens[n].survival;
    }
    for (int64_t n = 0; n < budget; n++) counts[tokens[n].row]++;
    double low = 0, high = 1;
    if (budget) low = worth * (seconds[budget] - seconds[budget - 1]), high = tokens[budget - 1].survival;
    if (budget < count) low = std::max(low, tokens[budget].survival);
    if (budget + 1 < sizes) high = std::min(high, worth * (seconds[budget + 1] - seconds[budget]));
    return (low + std::max(low, high)) / 2;
}

void plan_drafts(const Outlook* outlook, const Seconds* seconds, const Look* look, Plan* plan) {
    const int64_t drafters = outlook->drafters, depth = outlook->depth, outputs = drafters * depth;
    const double spent = look->draft * look->rate;
    Doubles debt = catching_up(*outlook, *seconds, *look);
    for (double& part : debt) part *= look->read * look->rate;
    Doubles value(look->rows * drafters * (depth + 1)), worth(look->alike * outputs), drafted(worth.size());
    Network network(*outlook);
    const float price = look->price, stop = look->stop, nothing[AT_ONCE] = {};
    const auto add = [&](const float* found, int64_t threshold) {
        for (int64_t n = 0; n < outputs; n++) {
            worth[threshold * outputs + n] += found[n];
            drafted[threshold * outputs + n] += chance(found[outputs + n]);
        }
    };
    for (int64_t row = 0; row < look->rows; row++) {
        const float* found[AT_ONCE];
        network.read(*look, row);
        network.at<1>(&price, &stop, found);
        for (int64_t d = 0; d < drafters; d++) {
            double* own = &value[(row * drafters + d) * (depth + 1)];
            double sum = -debt[row * drafters + d] - look->rate * seconds->begun[d];
            for (int64_t k = 0; k < depth; k++) {
                const int64_t n = d * depth + k;
                own[k + 1] = sum += found[0][n] - spent * seconds->each[d] * chance(found[0][outputs + n]);
            }
        }
        for (int64_t first = 0; first < look->alike; first += AT_ONCE) {
            network.at<AT_ONCE>(nothing, look->thresholds + first, found);
            for (int n = 0; n < AT_ONCE; n++) add(found[n], first + n);
        }
    }
    choose(*outlook, *seconds, *look, value, *plan);
    choose_alike(*outlook, *seconds, *look, worth, drafted, debt, *plan);
}

}  // extern "C"
