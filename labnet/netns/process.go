package netns

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// Process is a command that runs in a namespace, with the end of what it says. Safe for concurrent use. Whoever starts it ends it, by End
// or Kill.
type Process struct {
	Cmd   *Cmd
	said  Tail
	ended chan struct{} // closed when err is set
	err   error
}

// StartProcess starts a command. What it says is kept, and goes to through as well, which may be nil.
func StartProcess(cmd *Cmd, through io.Writer) (*Process, error) {
	p := &Process{Cmd: cmd, ended: make(chan struct{}), said: Tail{Through: through}}
	cmd.Stdout, cmd.Stderr = &p.said, &p.said
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go p.wait() // ends with the process
	return p, nil
}

func (p *Process) wait() {
	p.err = p.Cmd.Wait()
	close(p.ended)
}

// Alive is an error with the last words of the process once it has ended.
func (p *Process) Alive() error {
	select {
	case <-p.ended:
		return fmt.Errorf("%s has ended: %w%s", p.Cmd.Path, errors.Join(p.err), p.Said())
	default:
		return nil
	}
}

// End sends a signal and waits for the process, for as long as patience. An error is that of its exit, with its last words.
func (p *Process) End(signal os.Signal, patience time.Duration) error {
	if err := p.Alive(); err != nil {
		return err
	}
	if err := p.Cmd.Process.Signal(signal); err != nil {
		return err
	}
	select {
	case <-p.ended:
		if p.err != nil {
			return fmt.Errorf("%s: %w%s", p.Cmd.Path, p.err, p.Said())
		}
		return nil
	case <-time.After(patience):
		return fmt.Errorf("%s does not end%s", p.Cmd.Path, p.Said())
	}
}

// Kill is kill -9 for this process alone, and waits for its end; what else is in a namespace ends with that.
func (p *Process) Kill() {
	_ = p.Cmd.Process.Kill() // fails if it has ended
	<-p.ended
}

// Said is Tail's; "" if there is no process.
func (p *Process) Said() string {
	if p == nil {
		return ""
	}
	return p.said.Said()
}

// Tail keeps the end of what is written to it. The zero value is ready; safe for concurrent use.
type Tail struct {
	Through io.Writer // gets it as well; may be nil

	mu sync.Mutex
	b  []byte
}

func (t *Tail) Write(b []byte) (int, error) {
	if t.Through != nil {
		_, _ = t.Through.Write(b) // for people who look on
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	const most = 16 << 10
	t.b = append(t.b, b...)
	if over := len(t.b) - most; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(b), nil
}

// Said is what is kept, to be put behind an error; "" if that is nothing.
func (t *Tail) Said() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if said := strings.TrimSpace(string(t.b)); said != "" {
		return "; it said:\n" + said
	}
	return ""
}
