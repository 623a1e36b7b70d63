package wallclock

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	code, ran, err := Main()
	switch {
	case ran && err != nil:
		fmt.Fprintln(os.Stderr, err)
	case ran:
	case len(os.Args) > 1 && os.Args[1] == "tell":
		tell()
		code = 7
	default:
		code = m.Run()
	}
	os.Exit(code)
}

// tell is a program that says for each line that it reads what its clocks are.
func tell() {
	began := time.Now()
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		now := time.Now()
		fmt.Println(now.UnixNano(), int64(now.Sub(began)))
	}
}

// TestClock: a program has the wall clock that it is given, from one moment to the next, and its other clock goes on as before.
func TestClock(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	clock, err := New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer clock.Close()
	cmd := exec.Command(self, clock.Args(self, "tell")...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	const year, second = 365 * 24 * time.Hour, int64(time.Second)
	last := int64(0)
	for i, ahead := range []time.Duration{0, time.Second, 24 * time.Hour, 10 * year, -10 * year, 0} {
		clock.Set(ahead)
		from, asked := time.Now().Add(ahead).UnixNano(), clock.Asked()
		fmt.Fprintln(in)
		var wall, monotonic int64
		if _, err := fmt.Fscan(out, &wall, &monotonic); err != nil {
			t.Fatal(i, err)
		}
		if to := time.Now().Add(ahead).UnixNano(); wall < from-second/2 || wall > to+second/2 {
			t.Errorf("ahead by %v: its clock is %v off", ahead, time.Duration(wall-from))
		}
		if monotonic < last || monotonic > int64(time.Since(began)) {
			t.Errorf("ahead by %v: its other clock goes from %v to %v", ahead, time.Duration(last), time.Duration(monotonic))
		}
		if last = monotonic; clock.Asked() == asked {
			t.Errorf("ahead by %v: it has not asked", ahead)
		}
	}
	in.Close()
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 7 {
		t.Errorf("its exit code is not the program's: %v", err)
	}
}
