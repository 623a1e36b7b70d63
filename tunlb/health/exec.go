package health

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/tunlb/tunlb/tunlb/fdstore"
)

const (
	maxOutput = 512 // of which the first line is told
	// maxDrain is how long the output of a program that has ended is waited for; only who left its process
	// group can hold it open.
	maxDrain = 100 * time.Millisecond
)

// compileExec: a program exits with 0.
func compileExec(t *Target) (func(context.Context) error, error) {
	if len(t.Health.Command) == 0 {
		return nil, errors.New("no command to run")
	}
	env := append(fdstore.Unmanaged(os.Environ()), "TUNLB_SERVICE="+t.Service, "TUNLB_SERVER="+t.Name)
	env = append(env, placeEnv("TUNLB_ADDRESS", "TUNLB_PORT", t.Address)...)
	env = append(env, placeEnv("TUNLB_VIP", "TUNLB_VPORT", t.VIP)...)
	return func(ctx context.Context) error { return execute(ctx, t.Health.Command, env) }, nil
}

// placeEnv is empty where there is no address or port.
func placeEnv(addr, port string, at netip.AddrPort) []string {
	a, p := "", ""
	if at.IsValid() {
		a = at.Addr().String()
	}
	if at.Port() != 0 {
		p = strconv.Itoa(int(at.Port()))
	}
	return []string{addr + "=" + a, port + "=" + p}
}

// execute runs a program in a process group of its own. Whatever is left of that as the program ends, or the
// time is over, is killed.
func execute(ctx context.Context, command, env []string) error {
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	defer r.Close()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, w, w
	setGroup(cmd)
	cmd.Cancel = func() error { return killGroup(cmd) }
	err = cmd.Start()
	w.Close()
	if err != nil {
		return fmt.Errorf("start %s: %w", command[0], notStarted(err))
	}
	line := make(chan string, 1)
	go func() { line <- firstLine(r) }()
	err = cmd.Wait()
	_ = killGroup(cmd)
	_ = r.SetReadDeadline(time.Now().Add(maxDrain)) // ends firstLine
	said := <-line
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	}
	if said != "" {
		return fmt.Errorf("%w: %s", err, said)
	}
	return err
}

// notStarted strips the program's name.
func notStarted(err error) error {
	if lookup, ok := errors.AsType[*exec.Error](err); ok {
		return lookup.Err
	}
	return bare(err)
}

// firstLine reads until the end, for a program must not be stopped by a pipe that is full.
func firstLine(r *os.File) string {
	var head []byte
	buf := make([]byte, 4<<10)
	for {
		n, err := r.Read(buf)
		head = append(head, buf[:min(n, maxOutput-len(head))]...)
		if err != nil {
			line, _, _ := bytes.Cut(bytes.TrimSpace(head), []byte("\n"))
			return string(line)
		}
	}
}
