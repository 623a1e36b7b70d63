// Package wallclock runs a program under a wall clock of its own, which can be set while it runs. The machine's is left alone,
// and so are the program's other clocks.
//
//	Clock ── file ──> Main ── starts, and answers for ──> the program
//	 Set                  its clock_gettime(CLOCK_REALTIME)
//
// A static Go program asks the vDSO for the time, which no one can stand before: so it is taken from the program's auxiliary
// vector (getauxval(3)) before its first instruction, by ptrace(2). What is left is the system call, which a seccomp filter sends to Main
// (seccomp_unotify(2), Linux 5.0). Times that the kernel itself writes, those of files say, are the machine's.
//
// It owns nothing of what the program does.
package wallclock
