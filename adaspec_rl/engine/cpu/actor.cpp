// The choice of a policy's network, as `Actor` in `control/learned.py` defines it.

#include <algorithm>
#include <cmath>
#include <cstdint>

extern "C" {

struct Actor {
    int64_t layers;
    const int64_t* sizes;         // [layers + 1]
    const float* const* weights;  // of each layer, [inputs][outputs]
    const float* const* biases;
};

// The most preferred action; `scratch` has room for the outputs of two layers.
int64_t actor_choice(const Actor* actor, const float* observation, float* scratch) {
    const float* inputs = observation;
    const int64_t widest = *std::max_element(actor->sizes + 1, actor->sizes + actor->layers + 1);
    for (int64_t layer = 0; layer < actor->layers; layer++) {
        const int64_t rows = actor->sizes[layer], columns = actor->sizes[layer + 1];
        float* outputs = scratch + layer % 2 * widest;
        std::copy_n(actor->biases[layer], columns, outputs);
        for (int64_t row = 0; row < rows; row++)
            for (int64_t column = 0; column < columns; column++)
                outputs[column] += inputs[row] * actor->weights[layer][row * columns + column];
        if (layer + 1 < actor->layers)
            for (int64_t column = 0; column < columns; column++) outputs[column] = std::tanh(outputs[column]);
        inputs = outputs;
    }
    return std::max_element(inputs, inputs + actor->sizes[actor->layers]) - inputs;
}

}  // extern "C"
