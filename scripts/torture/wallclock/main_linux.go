package wallclock

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// command is Main's word.
const command = "under-wallclock"

// Main runs a program under a clock if this process was started by Args, and says how that ended: ran is true then. It is to
// be called first in main.
func Main() (code int, ran bool, err error) {
	if len(os.Args) < 4 || os.Args[1] != command {
		return 0, false, nil
	}
	code, err = run(os.Args[2], os.Args[3:])
	return code, true, err
}

// run starts the program from a thread that nobody else uses: it has the filter, which the program inherits, it is the one
// that may trace it, and with it the program ends.
func run(path string, program []string) (int, error) {
	runtime.LockOSThread()
	p, err := openPage(path)
	if err != nil {
		return 1, err
	}
	asked, err := filter()
	if err != nil {
		return 1, fmt.Errorf("seccomp: %w", err)
	}
	go p.answer(asked) // for as long as this process lives
	cmd := exec.Command(program[0], program[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true, Pdeathsig: unix.SIGKILL}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGQUIT, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2)
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	if err := release(cmd.Process.Pid); err != nil {
		return 1, errors.Join(fmt.Errorf("take the vDSO: %w", err), cmd.Process.Kill(), cmd.Wait())
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s) // fails if it has ended
		}
	}()
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		return 1, err
	}
	return cmd.ProcessState.ExitCode(), nil
}

// release lets a program go that has stopped before its first instruction, without its vDSO.
func release(pid int) error {
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, 0, nil); err != nil || !status.Stopped() {
		return fmt.Errorf("it has not stopped: %#x, %w", status, errors.Join(err))
	}
	return errors.Join(hideVDSO(pid), unix.PtraceDetach(pid))
}

// hideVDSO makes the program's AT_SYSINFO_EHDR an AT_IGNORE. The auxiliary vector is above the stack's first word.
func hideVDSO(pid int) error {
	const (
		ignore, sysinfoEHDR = 1, 33
		startStack          = 28 - 3 // of proc_pid_stat(5), behind the name
	)
	kept, err := os.ReadFile(fmt.Sprintf("/proc/%d/auxv", pid))
	if err != nil {
		return err
	}
	var entry []byte
	for pair := range slices.Chunk(kept, 2*wordSize) {
		if word(pair) == sysinfoEHDR {
			entry = pair
		}
	}
	if entry == nil {
		return nil // there is none
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return err
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	stack, err := strconv.ParseInt(string(fields[startStack]), 10, 64)
	if err != nil {
		return err
	}
	memory, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer memory.Close()
	arguments := make([]byte, 256<<10) // of which the strings are above
	n, _ := memory.ReadAt(arguments, stack)
	at := bytes.Index(arguments[:n], entry)
	if at < 0 || at%wordSize != 0 {
		return errors.New("the auxiliary vector is not where it should be")
	}
	_, err = memory.WriteAt(putWord(ignore), stack+int64(at))
	return err
}

const wordSize = 4 << (^uintptr(0) >> 63)

func word(b []byte) uint64 {
	if wordSize == 4 {
		return uint64(binary.NativeEndian.Uint32(b))
	}
	return binary.NativeEndian.Uint64(b)
}

func putWord(v uint64) []byte {
	return binary.NativeEndian.AppendUint64(nil, v)[:wordSize]
}
