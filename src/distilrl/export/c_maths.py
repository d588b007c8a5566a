"""C of the functions that activations and gates are made of: ours, without branches, the same on every machine."""

from collections.abc import Iterable

CLAMPED = """/* x, or the limit with x's sign where x is further from 0; NaN stays. Integers vectorise everywhere. */
static inline float clamped(float x, int32_t limit) {
    union { float value; int32_t bits; } u;
    u.value = x;
    int32_t size = u.bits & 0x7fffffff;
    u.bits = (size < limit || size > 0x7f800000 ? size : limit) | (u.bits & INT32_MIN);
    return u.value;
}
"""
MATHS = {
    "tanh": """static inline float tanh_of(float x) { /* a rational approximation, off by at most 4e-7 */
    x = clamped(x, 0x40fcf84f); /* 7.9053 */
    float s = x * x;
    float p = -2.76076847742355e-16f;
    p = p * s + 2.00018790482477e-13f;
    p = p * s - 8.60467152213735e-11f;
    p = p * s + 5.12229709037114e-08f;
    p = p * s + 1.48572235717979e-05f;
    p = p * s + 6.37261928875436e-04f;
    p = p * s + 4.89352455891786e-03f;
    float q = 1.19825839466702e-06f;
    q = q * s + 1.18534705686654e-04f;
    q = q * s + 2.26843463243900e-03f;
    q = q * s + 4.89352518554385e-03f;
    return x * p / q;
}
""",
    "exp": """static inline float exp_of(float x) { /* 2^n times a polynomial, off by at most 1e-7 of its value */
    union { float value; int32_t bits; } u, power;
    x = clamped(x, 0x42ae0000); /* 87 */
    u.value = x * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: its last bits are the nearest integer */
    int32_t n = u.bits - 0x4b400000;
    float r = (x - (float)n * 0.693359375f) + (float)n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    power.bits = (int32_t)((uint32_t)(n + 127) << 23);
    return (p * r * r + r + 1.0f) * power.value;
}
""",
}
"""Coefficients of tanh as in Eigen, of exp as in Cephes."""
ACTIVATIONS = {
    "relu": (
        (),
        """static inline float act_relu(float x) {
#if LANES > 1
    return x > 0.0f ? x : 0.0f;
#else
    union { float value; int32_t bits; } u; /* fewer instructions, most where floats are functions */
    u.value = x;
    u.bits = u.bits < 0 ? 0 : u.bits;
    return u.value;
#endif
}""",
    ),
    "tanh": (("tanh",), "static inline float act_tanh(float x) { return tanh_of(x); }"),
    "elu": (
        ("exp",),
        """static inline float act_elu(float x) {
    union { float value; int32_t bits; } below, above;
    above.value = x;
    below.bits = above.bits < 0 ? above.bits : 0;
    above.bits = above.bits < 0 ? 0 : above.bits;
    return above.value + (exp_of(below.value) - 1.0f);
}""",
    ),
    "leaky_relu": ((), "static inline float act_leaky_relu(float x) { return x > 0.0f ? x : 0.01f * x; }"),
    "gelu": (
        ("exp",),
        """static inline float act_gelu(float x) { /* max(x, 0) - |x| / 2 erfc(|x| / sqrt(2)), off by 4e-7 */
    union { float value; int32_t bits; } above, size;
    above.value = x;
    above.bits = above.bits < 0 ? 0 : above.bits;
    size.value = clamped(x, 0x41200000); /* 10, where erfc is nothing */
    size.bits &= 0x7fffffff;
    float z = size.value * 0.707106781f;
    float t = 1.0f / (1.0f + 0.3275911f * z);
    float p = 1.061405429f;
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    return above.value - 0.5f * size.value * (p * t) * exp_of(-z * z);
}""",
    ),
    "silu": (
        ("exp",),
        """static inline float act_silu(float x) { /* exp_of goes no further than 87, so that x must not either */
    return (x < -87.0f ? -87.0f : x) / (1.0f + exp_of(-x));
}""",
    ),
}
"""Functions of `MATHS` that each needs, and its own; erfc as in Abramowitz and Stegun, 7.1.26."""
CELLS: dict[str, str] = {
    "gru": """
static inline float sigmoid_of(float x) { return 1.0f / (1.0f + exp_of(-x)); }
static void remember(policy_state *state, const float *gates, const float *past) {
    for (int k = 0; k < @size; k++) {
        float reset = sigmoid_of(gates[k] + past[k]), update = sigmoid_of(gates[@size + k] + past[@size + k]);
        float candidate = tanh_of(gates[2 * @size + k] + reset * past[2 * @size + k]);
        state->h[k] = candidate + update * (state->h[k] - candidate);
    }
}
""",
    "lstm": """
static inline float sigmoid_of(float x) { return 1.0f / (1.0f + exp_of(-x)); }
static void remember(policy_state *state, const float *gates, const float *past) {
    for (int k = 0; k < @size; k++) {
        float into = sigmoid_of(gates[k] + past[k]), forget = sigmoid_of(gates[@size + k] + past[@size + k]);
        float candidate = tanh_of(gates[2 * @size + k] + past[2 * @size + k]);
        state->c[k] = forget * state->c[k] + into * candidate;
        state->h[k] = sigmoid_of(gates[3 * @size + k] + past[3 * @size + k]) * tanh_of(state->c[k]);
    }
}
""",
}
"""What the gates make of what is remembered."""


def maths(names: Iterable[str]) -> str:
    """Our own mathematical functions of these names."""
    wanted = set(names)
    return (CLAMPED if wanted else "") + "".join(text for name, text in MATHS.items() if name in wanted)
