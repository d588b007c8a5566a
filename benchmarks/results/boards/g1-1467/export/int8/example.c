/* cc -O3 -std=c99 example.c policy.c -o example && ./example golden.bin */
#include <stdio.h>
#include "policy.h"

int main(int argc, char **argv) {
    static obs_t obs[POLICY_OBS_SIZE];
    float action[POLICY_ACTION_SIZE];
    float own[POLICY_ACTION_SIZE];
    policy_state state;
    policy_reset(&state);
    static const float close[POLICY_ACTION_SIZE] = {5.0e-05f,5.0e-05f,5.0e-05f,5.0e-05f,5.0e-05f,5.0e-05f,5.0e-05f,5.0e-05f,5.0e-05f,5.0e-05f,5.0e-05f,5.0e-05f};
    static const float share[POLICY_ACTION_SIZE] = {4.7683716e-07f,4.7683716e-07f,4.7683716e-07f,4.7683716e-07f,4.7683716e-07f,4.7683716e-07f,4.7683716e-07f,4.7683716e-07f,4.7683716e-07f,4.7683716e-07f,4.7683716e-07f,4.7683716e-07f};
    int seen = 0, same = 0;
    FILE *golden = argc > 1 ? fopen(argv[1], "rb") : NULL;
    if (!golden) return 2;
    while (fread(action, sizeof action, 1, golden) == 1 && fread(obs, sizeof obs, 1, golden) == 1) {
        seen++;
        policy_act(&state, obs, own);
        int all = 1;
        for (int i = 0; i < POLICY_ACTION_SIZE; i++) {
            const float near = close[i] + share[i] * (own[i] < 0 ? -own[i] : own[i]);
            all &= own[i] - action[i] <= near && action[i] - own[i] <= near;
        }
        same += all;
    }
    fclose(golden);
    printf("%d of %d actions as expected\n", same, seen);
    return same == seen && seen > 0 ? 0 : 1;
}
