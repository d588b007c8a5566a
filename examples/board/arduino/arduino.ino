/* A policy on an Arduino board. Copy policy.c and policy.h of an export (distilrl export RUN --to c, or int8) beside this file.

   Every 20 ms an observation is read, a decision is made, and an action is applied: the two functions below are yours.
   The header says what an observation is, number by number, and what an action is. */
#include "policy.h"

static obs_t obs[POLICY_OBS_SIZE];
#ifdef POLICY_STATE_BYTES
static policy_state state; /* what it remembers; policy_reset begins an episode */
#define GIVEN &state, obs
#else
#define GIVEN obs
#endif

void read_observation() {
    for (int i = 0; i < POLICY_OBS_SIZE; i++) obs[i] = analogRead(A0 + i); /* your sensors, in the environment's units */
}

void apply(int action) {
    digitalWrite(LED_BUILTIN, action == 0 ? LOW : HIGH); /* your motors */
}

void setup() {
    Serial.begin(115200);
    pinMode(LED_BUILTIN, OUTPUT);
#ifdef POLICY_STATE_BYTES
    policy_reset(&state);
#endif
}

void loop() {
    read_observation();
    unsigned long start = micros();
    int action = policy_act(GIVEN);
    /* of several choices (int) or of real numbers (float):
       int action[POLICY_ACTION_SIZE]; policy_act(GIVEN, action); */
    unsigned long took = micros() - start;
    apply(action);
    Serial.print("us ");
    Serial.println(took);
    delay(20);
}
