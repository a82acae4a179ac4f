/* The start of a program on the board mps2-an500: a Cortex-M7, which QEMU knows. Files and output go through the debugger
   (semihosting). */
#include <stdint.h>
#include <stdlib.h>

extern uint32_t stack_top[], bss_begin[], bss_end[];
extern void initialise_monitor_handles(void);
extern int main(void);

void _fini(void);
void reset(void);

void _fini(void) /* newlib's exit calls it; there is nothing to end */
{
}

static void fault(void)
{
    for (;;)
        __asm__ volatile("bkpt #0");
}

void reset(void)
{
    *(volatile uint32_t *)0xe000ed88u |= 0xfu << 20; /* switch the floating-point unit on */
    __asm__ volatile("dsb\n isb");
    for (uint32_t *word = bss_begin; word < bss_end; ++word)
        *word = 0;
    initialise_monitor_handles();
    exit(main());
}

__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
    (const void *)stack_top, (const void *)reset, (const void *)fault, (const void *)fault,
    (const void *)fault,     (const void *)fault, (const void *)fault,
};
