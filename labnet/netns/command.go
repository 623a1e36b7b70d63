package netns

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"sync"
	"time"
)

// Cmd is an exec.Cmd that starts inside a namespace and is used in the same way. It is killed
// when this process ends in whatever way, and by closing the namespace, which also waits for it.
type Cmd struct {
	*exec.Cmd
	ns   *NS
	wait func() error
}

// Command prepares a child process inside the namespace.
func (ns *NS) Command(ctx context.Context, name string, args ...string) *Cmd {
	c := &Cmd{Cmd: exec.CommandContext(ctx, name, args...), ns: ns}
	// A grandchild that keeps the output open holds nobody up for longer.
	c.WaitDelay = 5 * time.Second
	c.wait = sync.OnceValue(c.Cmd.Wait)
	return c
}

// Wait is exec.Cmd's, but may be called again, and concurrently.
func (c *Cmd) Wait() error {
	err := c.wait()
	c.ns.disown(c)
	return err
}

// Close kills the process, if it runs, and waits for its end.
func (c *Cmd) Close() error {
	if c.Process == nil {
		return nil
	}
	_ = c.Process.Kill() // fails if it has ended
	_ = c.Wait()         // what a killed process has to say
	return nil
}

// Run is exec.Cmd's.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output is exec.Cmd's; standard error becomes part of an ExitError unless it goes elsewhere.
func (c *Cmd) Output() ([]byte, error) {
	if c.Stdout != nil {
		return nil, errors.New("exec: Stdout already set")
	}
	var stdout, stderr bytes.Buffer
	c.Stdout = &stdout
	capture := c.Stderr == nil
	if capture {
		c.Stderr = &stderr
	}
	err := c.Run()
	var exit *exec.ExitError
	if capture && errors.As(err, &exit) {
		exit.Stderr = stderr.Bytes()
	}
	return stdout.Bytes(), err
}

// CombinedOutput is exec.Cmd's.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	if c.Stdout != nil || c.Stderr != nil {
		return nil, errors.New("exec: Stdout or Stderr already set")
	}
	var b bytes.Buffer
	c.Stdout, c.Stderr = &b, &b
	err := c.Run()
	return b.Bytes(), err
}
