/* mlp:20+gru:3 for examples.unitree:G1-v0, student 364d77f42562, written by distilrl */
#ifndef POLICY_H
#define POLICY_H
#include <stdint.h>

#define POLICY_OBS_SIZE 47
#define POLICY_VALUES 12
#define POLICY_ACTION_SIZE 12
#define POLICY_SCRATCH_BYTES 0
#define POLICY_WEIGHT_BYTES 2321

typedef float obs_t;

#ifdef __cplusplus
extern "C" {
#endif

#define POLICY_STATE_BYTES 6

/* What the policy remembers of an episode; policy_reset comes before its first step. */
typedef struct {
    int16_t h[3];
} policy_state;
void policy_reset(policy_state *state);

/* The head's numbers (mean) of one observation (raw numbers).
They take the memory one step on, as policy_act does: call one of the two at each step.
Numbers must be finite: of NaN or infinity the answer means nothing, nor what is remembered until policy_reset. */
void policy_values(policy_state *state, const float obs[47], float values[12]);

/* The action in the environment's own units, clipped to its bounds:
each number from -5 to 5.
Reentrant: it writes to the stack and to the state that it is given. */
void policy_act(policy_state *state, const float obs[47], float action[12]);

#ifdef __cplusplus
}
#endif
#endif
