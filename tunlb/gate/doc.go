// Package gate bounds what the clients of an HTTP server cost it: how many connections they have, in all and each of them,
// and how long they may take over a request and over reading the answer.
//
// It owns connections, and counts those that it ends. It does not own who may ask, nor what they ask for.
package gate

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Options are the bounds. All of them have to be set.
type Options struct {
	Most int // connections of all callers but those of rank
	Each int // connections of one caller
	// Stall is how long a client may take to read 64 KiB of an answer. An answer that has nothing to say takes as long as
	// it likes.
	Stall time.Duration
	// Who says whose a connection is. It must not wait for anybody.
	Who func(net.Conn) Caller
}

// Caller is whose connections are counted together. A plain value.
type Caller struct {
	Name string
	Rank bool // others can't take its place: only Each bounds it
}

// Why a connection was ended or refused.
type Why uint8

const (
	Busy    Why = iota // refused: all that the caller may have are in use
	Full               // refused: all that there may be are in use
	Idle               // ended: another one wanted its place, and it had asked nothing yet, or nothing more
	Slow               // ended: its request was not there in time
	Stalled            // ended: it did not read its answer
	reasons
)

func (w Why) String() string {
	return [...]string{"busy", "full", "idle", "slow", "stalled"}[w]
}

// Reasons are all that there are.
func Reasons() []Why { return []Why{Busy, Full, Idle, Slow, Stalled} }

// Counts are of connections. A plain value.
type Counts struct {
	Open int               `json:"open"`
	Cut  map[string]uint64 `json:"cut"` // all reasons that there are, since the start
}

// maxRefused is how many of those that are refused may wait for being told; others are closed without a word.
const maxRefused = 16

// Gate is a listener of which a server gets the connections that it may have. Make it with New; closing it closes the
// listener. Safe for concurrent use.
type Gate struct {
	net.Listener
	opts Options
	cut  [reasons]atomic.Uint64

	mu      sync.Mutex
	conns   map[*Conn]struct{} // those that are not refused
	of      map[string]int     // by caller
	ranked  int                // of those with rank
	refused []*Conn            // oldest first
	last    uint64             // order in which connections became idle
}

// New puts a gate before l.
func New(l net.Listener, o Options) *Gate {
	return &Gate{Listener: l, opts: o, conns: map[*Conn]struct{}{}, of: map[string]int{}}
}

// Serve serves on the gate what srv's handler says. Refused connections get refuse's answer, and are closed. It sets
// srv's Handler, ConnContext and ConnState.
func (g *Gate) Serve(srv *http.Server, refuse func(http.ResponseWriter, Why)) error {
	next := srv.Handler
	srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c := Of(r.Context()); c.refused {
			w.Header().Set("Connection", "close")
			refuse(w, c.why)
			return
		} else if r.ContentLength == 0 {
			c.work()
		} else {
			r.Body = &body{r.Body, c}
		}
		next.ServeHTTP(w, r)
	})
	srv.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		return context.WithValue(ctx, connKey{}, conn)
	}
	srv.ConnState = func(conn net.Conn, state http.ConnState) { conn.(*Conn).become(state) }
	return srv.Serve(g)
}

// connKey is under which a request's context has its connection.
type connKey struct{}

// Of is the connection of a request that a gate's server handles.
func Of(ctx context.Context) *Conn { return ctx.Value(connKey{}).(*Conn) }

// Accept implements net.Listener.
func (g *Gate) Accept() (net.Conn, error) {
	conn, err := g.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c, victim := g.admit(&Conn{Conn: conn, gate: g, caller: g.opts.Who(conn)})
	if victim != nil {
		victim.Close() // fails if it has ended by itself
	}
	return c, nil
}

// admit counts a connection, and names one that has to go for it.
func (g *Gate) admit(c *Conn) (_, victim *Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.of[c.caller.Name] >= g.opts.Each:
		c.why = Busy
		victim = g.idlestLocked(func(o *Conn) bool { return o.caller.Name == c.caller.Name })
	case !c.caller.Rank && len(g.conns)-g.ranked >= g.opts.Most:
		c.why = Full
		most := 0 // who has many has to give, and no caller's only connection goes for another's tenth
		for o := range g.conns {
			if !o.caller.Rank && !o.busy {
				most = max(most, g.of[o.caller.Name])
			}
		}
		victim = g.idlestLocked(func(o *Conn) bool { return !o.caller.Rank && g.of[o.caller.Name] == most })
	default:
		g.addLocked(c)
		return c, nil
	}
	if victim != nil {
		g.cut[Idle].Add(1)
		g.removeLocked(victim)
		g.addLocked(c)
		return c, victim
	}
	g.cut[c.why].Add(1)
	if len(g.refused) == maxRefused {
		victim, g.refused = g.refused[0], g.refused[1:]
	}
	c.refused = true
	g.refused = append(g.refused, c)
	return c, victim
}

// idlestLocked is that one of the idle connections that take says yes to which has been so for longest; nil if all are
// busy.
func (g *Gate) idlestLocked(take func(*Conn) bool) (found *Conn) {
	for o := range g.conns {
		if !o.busy && take(o) && (found == nil || o.idle < found.idle) {
			found = o
		}
	}
	return found
}

func (g *Gate) addLocked(c *Conn) {
	g.last++
	c.idle = g.last
	g.conns[c] = struct{}{}
	g.of[c.caller.Name]++
	if c.caller.Rank {
		g.ranked++
	}
}

func (g *Gate) removeLocked(c *Conn) {
	if _, there := g.conns[c]; !there {
		return
	}
	delete(g.conns, c)
	if g.of[c.caller.Name]--; g.of[c.caller.Name] == 0 {
		delete(g.of, c.caller.Name)
	}
	if c.caller.Rank {
		g.ranked--
	}
}

// Counts is how many there are, and how many were ended or refused.
func (g *Gate) Counts() Counts {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := Counts{Open: len(g.conns) + len(g.refused), Cut: make(map[string]uint64, reasons)}
	for why := range reasons {
		c.Cut[why.String()] = g.cut[why].Load()
	}
	return c
}

// Close implements net.Listener; connections go on.
func (g *Gate) Close() error {
	err := g.Listener.Close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
