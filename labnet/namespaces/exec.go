package namespaces

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/tunlb/tunlb/labnet/scenario"
)

// lastWords is how long output is awaited after a command's end: what it has written is there, but what it
// has started may hold the output open for as long as it likes.
const lastWords = 100 * time.Millisecond

// Exec is scenario.Lab's: a program of this machine in the host's network, as a child of this process. It is interrupted
// when ctx ends, and killed if that does not end it. What it leaves running goes with the lab. std.In is read on until
// it has ended, or has brought something after the command's end.
func (l *lab) Exec(ctx context.Context, host string, argv []string, std scenario.Stdio) (code int, err error) {
	ns, err := l.host(host)
	if err != nil {
		return 0, err
	}
	cmd, err := l.command(host, argv, std.Env)
	if err != nil {
		return 0, err
	}
	var c *conversation
	if std.Terminal {
		c, err = onTerminal(cmd, std)
	} else {
		c, err = onPipes(cmd, std)
	}
	if err != nil {
		return 0, fmt.Errorf("run %s on %s: %w", argv[0], host, err)
	}
	err = l.warden.start(ns, cmd)
	c.started()
	if err != nil {
		c.abandon()
		return 0, fmt.Errorf("run %s on %s: %w", argv[0], host, err)
	}
	stopped := make(chan struct{})
	quit := context.AfterFunc(ctx, func() { defer close(stopped); interrupt(cmd, c.over, std.Terminal) })
	c.talk()
	err = cmd.Wait()
	close(c.over)
	if !quit() {
		<-stopped
	}
	heard := c.finish()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, fmt.Errorf("run %s on %s: %w", argv[0], host, err)
	}
	return exitCode(cmd.ProcessState), heard
}

// command finds the program.
func (l *lab) command(host string, argv, env []string) (*exec.Cmd, error) {
	if len(argv) == 0 {
		return nil, errors.New("no command")
	}
	cmd := &exec.Cmd{Path: self, Args: argv, Env: append(os.Environ(), env...)}
	if argv[0] != "tunlb" {
		path, err := exec.LookPath(argv[0])
		switch {
		case errors.Is(err, exec.ErrNotFound):
			return nil, fmt.Errorf("%s has no program %q: the hosts of this lab have this machine's programs, so install it here; %w", host, argv[0], err)
		case err != nil:
			return nil, fmt.Errorf("run on %s: %w", host, err)
		}
		cmd.Path = path
	}
	if host == l.file.Director.Name {
		cmd.Env = append(cmd.Env, "TUNLB_SOCKET="+socket)
	}
	return cmd, nil
}

// conversation is a command's input and output.
type conversation struct {
	theirs []*os.File     // the command's ends, closed once it has them
	in     io.WriteCloser // may be nil
	source io.Reader      // of in
	outs   []*os.File     // ours
	sinks  []io.Writer    // of outs
	resize <-chan scenario.Size
	screen *os.File
	over   chan struct{} // closed when the command has ended

	running sync.WaitGroup // what reads outs, and resizes
	mu      sync.Mutex
	err     error
}

func onPipes(cmd *exec.Cmd, std scenario.Stdio) (c *conversation, err error) {
	c = &conversation{over: make(chan struct{})}
	defer func() {
		if err != nil {
			c.started()
			c.abandon()
		}
	}()
	if std.In != nil {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		c.theirs, c.in, c.source, cmd.Stdin = append(c.theirs, r), w, std.In, r
	}
	for _, out := range []struct {
		to   io.Writer
		from *io.Writer
	}{{std.Out, &cmd.Stdout}, {std.Err, &cmd.Stderr}} {
		if out.to == nil {
			continue
		}
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		c.theirs, c.outs, c.sinks = append(c.theirs, w), append(c.outs, r), append(c.sinks, out.to)
		*out.from = w
	}
	cmd.SysProcAttr = groupAttr()
	return c, nil
}

func onTerminal(cmd *exec.Cmd, std scenario.Stdio) (*conversation, error) {
	screen, tty, err := openTerminal()
	if err != nil {
		return nil, fmt.Errorf("open a terminal: %w", err)
	}
	c := &conversation{
		theirs: []*os.File{tty}, outs: []*os.File{screen}, sinks: []io.Writer{std.Out},
		screen: screen, resize: std.Resize, over: make(chan struct{}),
	}
	if std.Out == nil {
		c.sinks[0] = io.Discard
	}
	if std.In != nil {
		c.in, c.source = keyboard{screen}, std.In
	}
	select { // before the command looks
	case size := <-std.Resize:
		setSize(c.screen, size)
	default:
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = sessionAttr()
	return c, nil
}

// keyboard is a terminal written to. Its end is a key of its own, and the terminal stays.
type keyboard struct{ screen *os.File }

func (k keyboard) Write(b []byte) (int, error) { return k.screen.Write(b) }

func (k keyboard) Close() error {
	_, err := k.screen.Write([]byte{4}) // ^D
	return err
}

func (c *conversation) started() {
	for _, f := range c.theirs {
		f.Close()
	}
}

// abandon is for a command that did not start.
func (c *conversation) abandon() {
	if c.in != nil && c.screen == nil {
		c.in.Close()
	}
	for _, f := range c.outs {
		f.Close()
	}
}

// talk begins to pass on what is said.
func (c *conversation) talk() {
	if c.in != nil {
		go c.feed() // ends with its source, or at what that brings after the command's end
	}
	for i := range c.outs {
		c.running.Go(func() { c.listen(c.outs[i], c.sinks[i]) })
	}
	if c.resize != nil {
		c.running.Go(c.watchSize)
	}
}

func (c *conversation) feed() {
	_, _ = io.Copy(c.in, c.source) // a command need not read all
	select {
	case <-c.over:
	default:
		_ = c.in.Close()
	}
}

// listen passes output on until it ends, or nothing comes after the command's end. A command whose
// output nobody takes ends like in a pipe that is broken.
func (c *conversation) listen(from *os.File, to io.Writer) {
	defer from.Close()
	buf := make([]byte, 32<<10)
	late := false
	for {
		if late {
			_ = from.SetReadDeadline(time.Now().Add(lastWords))
		}
		n, err := from.Read(buf)
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				c.fail(err)
				return
			}
			continue
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) || late {
			return
		}
		late = true
	}
}

func (c *conversation) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil && !errors.Is(err, net.ErrClosed) {
		c.err = fmt.Errorf("pass the output on: %w", err)
	}
}

func (c *conversation) watchSize() {
	for {
		select {
		case size, ok := <-c.resize:
			if !ok {
				return
			}
			setSize(c.screen, size)
		case <-c.over:
			return
		}
	}
}

// finish waits for the rest of the output of a command that has ended.
func (c *conversation) finish() error {
	for _, f := range c.outs {
		_ = f.SetReadDeadline(time.Unix(1, 0)) // wakes listen, which then knows
	}
	c.running.Wait()
	if c.in != nil && c.screen == nil {
		_ = c.in.Close()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}
