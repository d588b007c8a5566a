/* Runs policy.c on a board, emulated or real: answers golden observations, and measures its decisions.

   Observations come from golden.bin of the export, answers (the head's numbers and the action of each) go to
   answers.bin: files of the machine that emulates or debugs the board (semihosting), or of a process. What is printed:
   how long decisions take in ticks of the board's counter, and calls of a function that does nothing, how long a loop of
   2,000,000 instructions takes, and bytes of stack. With `qemu -icount shift=0` the counter counts instructions. */
#include <stdint.h>
#include <stdio.h>
#include "policy.h"

#ifndef RECORDS
#define RECORDS 64 /* observations at most */
#endif
#ifndef REPEATS
#define REPEATS 100 /* decisions on each, which are measured together */
#endif
#ifndef ELEMENT
#define ELEMENT int32_t /* of an action in golden.bin: int32_t, or float where actions are real */
#define CHOICES
#endif
#define LOOPS 1000000 /* of two instructions */

/* the board: its counter, and where its stack ends */
#if defined(__ARM_ARCH_PROFILE) && __ARM_ARCH_PROFILE == 'M'
#define SYSTICK ((volatile uint32_t *)0xe000e010)
static void counter_start(void) {
    SYSTICK[1] = 0xffffff;
    SYSTICK[0] = 5; /* on, at the processor's clock */
}
static uint32_t counter(void) { return 0xffffff - SYSTICK[2]; }
static uint32_t since(uint32_t start) { return (counter() - start) & 0xffffff; }
static void counter_restart(void) { SYSTICK[2] = 0; }
static int counter_wrapped(void) { return (SYSTICK[0] >> 16) & 1; }
#define COUNTS 0xffffffu
static void loops(void) {
    __asm volatile(".syntax unified\n movs r2, %0\n 1: subs r2, r2, #1\n bne 1b" : : "r"(LOOPS) : "r2", "cc");
}
#define STACK_POINTER(p) __asm volatile("mov %0, sp" : "=r"(p))
extern uint32_t stack_end[];
#elif defined(__riscv) && !defined(__linux__)
static void counter_start(void) {}
static uint32_t counter(void) {
    uint32_t count;
    __asm volatile(".option push\n .option arch, +zicsr\n rdinstret %0\n .option pop" : "=r"(count));
    return count;
}
static uint32_t since(uint32_t start) { return counter() - start; }
static void counter_restart(void) {}
static int counter_wrapped(void) { return 0; }
#define COUNTS 0xffffffffu
static void loops(void) {
    __asm volatile("mv t0, %0\n 1: addi t0, t0, -1\n bnez t0, 1b" : : "r"(LOOPS) : "t0");
}
#define STACK_POINTER(p) __asm volatile("mv %0, sp" : "=r"(p))
extern uint32_t __heap_end[];
#define stack_end __heap_end
#else
#define NOT_MEASURED
#endif

/* one decision, of any kind of policy */
static obs_t obs[POLICY_OBS_SIZE];
static float values[POLICY_VALUES];
static ELEMENT action[POLICY_ACTION_SIZE];
#ifdef POLICY_STATE_BYTES
static policy_state state, next;
#define GIVEN &next, obs
#define REMEMBERED next = state
#else
#define GIVEN obs
#define REMEMBERED
#endif

static __attribute__((noinline)) void decide(void) {
#ifdef SCALAR
    action[0] = policy_act(GIVEN);
#elif defined(CHOICES)
    int own[POLICY_ACTION_SIZE]; /* which is not int32_t everywhere */
    policy_act(GIVEN, own);
    for (int i = 0; i < POLICY_ACTION_SIZE; i++) action[i] = own[i];
#else
    policy_act(GIVEN, action);
#endif
}

#ifndef NOT_MEASURED
static __attribute__((noinline)) void nothing(void) { __asm volatile("" : : : "memory"); }

static __attribute__((noinline)) uint32_t ticks(void (*function)(void)) {
    uint32_t start = counter();
    for (int i = 0; i < REPEATS; i++) function();
    return since(start);
}

/* Bytes below this function's own that a decision writes to. */
static __attribute__((noinline)) uint32_t stack(void) {
    const uint32_t paint = 0x5ac3a53c;
    uint32_t *top, *low = stack_end;
    STACK_POINTER(top);
    for (volatile uint32_t *p = low; p < top; p++) *p = paint;
    decide();
    while (low < top && *(volatile uint32_t *)low == paint) low++;
    return (uint32_t)(top - low) * 4;
}
#endif

int main(void) {
    FILE *golden = fopen("golden.bin", "rb"), *answers = fopen("answers.bin", "wb");
    if (!golden || !answers) return 2;
#ifndef NOT_MEASURED
    uint64_t decisions = 0, calls = 0;
    uint32_t most = 0, deepest = 0;
    counter_start();
#endif
#ifdef POLICY_STATE_BYTES
    policy_reset(&state);
#endif
    int seen = 0;
    for (; seen < RECORDS && fread(action, sizeof action, 1, golden) == 1 && fread(obs, sizeof obs, 1, golden) == 1; seen++) {
        REMEMBERED;
        policy_values(GIVEN, values);
#ifndef NOT_MEASURED
        REMEMBERED;
        uint32_t took = ticks(decide), used = stack();
        decisions += took;
        calls += ticks(nothing);
        most = took > most ? took : most;
        deepest = used > deepest ? used : deepest;
#endif
        REMEMBERED;
        decide();
#ifdef POLICY_STATE_BYTES
        state = next;
#endif
        if (fwrite(values, sizeof values, 1, answers) != 1 || fwrite(action, sizeof action, 1, answers) != 1) return 2;
    }
    fclose(answers);
    printf("observations %d\n", seen);
#ifndef NOT_MEASURED
    counter_restart();
    uint32_t begun = counter();
    REMEMBERED;
    decide();
    if (counter_wrapped() || since(begun) > COUNTS / REPEATS) {
        printf("%d decisions take longer than the counter counts: build with DEFINES=-DREPEATS=1\n", REPEATS);
        return 3;
    }
    uint32_t start = counter();
    loops();
    printf("loops %lu\n", (unsigned long)since(start));
    printf("repeats %d\ndecisions %lu\nmost %lu\nnothing %lu\nstack %lu\n", REPEATS,
           (unsigned long)(decisions / (unsigned)seen), (unsigned long)most, (unsigned long)(calls / (unsigned)seen),
           (unsigned long)deepest);
#endif
    return 0;
}
