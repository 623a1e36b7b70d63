package namespaces

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/tunlb/tunlb/labnet/netns"
	"github.com/tunlb/tunlb/tunlb/control"
)

// socket is abstract: it is seen in the director's namespace only and goes with it.
const socket = "@tunlb"

// self is the running program, whatever is at its path by now.
const self = "/proc/self/exe"

// farewell is how long a director may take to end.
const farewell = 5 * time.Second

// daemon is the director's tunlb.
type daemon struct {
	cmd   *netns.Cmd
	ended chan struct{} // closed
	err   error         // valid once ended is closed
}

// startDaemon runs tunlb on the director and waits until it answers. dir is Driver.Dir.
func (l *lab) startDaemon(ctx context.Context, log io.Writer, dir string) error {
	d := l.file.Director
	tail := &tail{next: log}
	path, text := "/dev/stdin", configuration(l.file)
	if dir != "" {
		path = filepath.Join(dir, l.file.Name+".yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return fmt.Errorf("write the configuration of %s: %w", d.Name, err)
		}
	}
	// Not with ctx, which is about getting up only.
	cmd := l.net.NS(d.Name).Command(context.WithoutCancel(ctx), self, "run", "-f", path, "--socket", socket)
	cmd.Args[0] = "tunlb"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(text), tail, tail
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start tunlb on %s: %w", d.Name, err)
	}
	daemon := &daemon{cmd: cmd, ended: make(chan struct{})}
	go daemon.wait() // ends with the process, which ends with the lab
	if err := daemon.await(ctx, l.Control()); err != nil {
		_ = cmd.Close() // what it has ended with is in err
		// Its messages name the file as it does.
		said := strings.ReplaceAll(tail.String(), path, l.file.Name)
		return fmt.Errorf("tunlb on %s: %w\n%s", d.Name, err, strings.TrimSpace(said))
	}
	l.daemon = daemon
	return nil
}

func (d *daemon) wait() {
	defer close(d.ended)
	d.err = d.cmd.Wait()
}

// await polls until the director answers or has ended.
func (d *daemon) await(ctx context.Context, asked *control.Client) error {
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for {
		if _, err := asked.Status(ctx); err == nil {
			return nil
		}
		select {
		case <-poll.C:
		case <-d.ended:
			return errors.Join(errors.New("ended before it was ready"), d.err)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// cause is why it has ended; valid once it has.
func (d *daemon) cause() error {
	if d.err != nil {
		return fmt.Errorf("the director's tunlb ended: %w", d.err)
	}
	return errors.New("the director's tunlb ended")
}

// Close has it end as it does on SIGINT, so that its errors show, and kills it if it takes too long.
func (d *daemon) Close() error {
	if err := d.cmd.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	patience := time.NewTimer(farewell)
	defer patience.Stop()
	select {
	case <-d.ended:
		if d.err != nil {
			return d.cause()
		}
		return nil
	case <-patience.C:
		return errors.Join(fmt.Errorf("the director's tunlb did not end within %v, and was killed", farewell), d.cmd.Close())
	}
}

// tail passes a log on and remembers its end. Safe for concurrent use.
type tail struct {
	next io.Writer

	mu   sync.Mutex
	last []byte
}

func (t *tail) Write(p []byte) (int, error) {
	const bound = 16 << 10
	t.mu.Lock()
	t.last = append(t.last, p...)
	if len(t.last) > 2*bound {
		t.last = append([]byte(nil), t.last[len(t.last)-bound:]...)
	}
	t.mu.Unlock()
	return t.next.Write(p)
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.last)
}
