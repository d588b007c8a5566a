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
    int seen = 0, same = 0;
    FILE *golden = argc > 1 ? fopen(argv[1], "rb") : NULL;
    if (!golden) return 2;
    while (fread(action, sizeof action, 1, golden) == 1 && fread(obs, sizeof obs, 1, golden) == 1) {
        seen++;
        policy_act(&state, obs, own);
        int all = 1;
        for (int i = 0; i < POLICY_ACTION_SIZE; i++) {
            const float size = 1e-05f * (own[i] < 0 ? -own[i] : own[i]);
            const float near = close[i] > size ? close[i] : size;
            all &= own[i] - action[i] <= near && action[i] - own[i] <= near;
        }
        same += all;
    }
    fclose(golden);
    printf("%d of %d actions as expected\n", same, seen);
    return same == seen && seen > 0 ? 0 : 1;
}
