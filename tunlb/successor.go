package tunlb

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/tunlb/flow"
)

// What outlives the process (Options.Keep), so that another one goes on with the connections: their records are there
// at any moment; words say what their numbers stand for, and what operators and health checks have said. A successor
// first becomes what its predecessor was, and then goes over to its own configuration as in a reload.

// Keep is memory that outlives the process: tunlb/keep. The engine alone writes to it.
type Keep interface {
	flow.Memory
	Words() ([]byte, error)
	SetWords([]byte) error
}

// wordsVersion is to be raised whenever a word gets another meaning, or a successor could not do without a new one. What JSON can
// tell by itself, a field that is new and may be missing, needs nothing.
const wordsVersion = 1

// words is what is kept beside records. Its zero value is that of nobody.
type words struct {
	Version int
	Ports   []portName
	Config  Config
	Known   []policy.Known
	Said    []policy.Said
}

// wordsPause is how long words that could not be written wait, since to put them together takes its time, too.
const wordsPause = 5 * time.Second

// Succession says what has become of a predecessor's connections. The zero value is that of nobody's successor.
type Succession struct {
	flow.Adoption
	Cause string // why nothing could be taken over, if there was something; for people
}

// Why a predecessor's connections end, if there is nothing wrong with the words that there are.
var (
	errWordless = errors.New("there are no words of what they are about")
	errVersion  = errors.New("the words about them are another version's")
)

// succeed takes over what is in the memory. It is called by New, before the engine's own configuration is applied. At any
// moment of it the process may be killed: until new words are written the old ones say what is true of all records, for
// neither ports nor servers get numbers that others have in them.
func (e *Engine) succeed() (s Succession) {
	w, there, err := wordsOf(e.keep)
	e.services = policy.Recall(w.Known)
	if err == nil {
		err = e.exits.assign(e.lanes, w.Ports)
	}
	if err == nil && there {
		err = e.apply(w.Config, w.Said)
	}
	if err != nil || !there { // records that nobody can read now must not be somebody's later
		s.Adoption = e.flows.Adopt(e.tick(), func(*flow.Flow) bool { return false })
	} else {
		known := map[uint32]bool{}
		for _, k := range w.Known {
			known[k.ID] = true
		}
		s.Adoption = e.flows.Adopt(e.tick(), func(f *flow.Flow) bool { return e.adopt(f, known) })
	}
	e.services.Settle()
	if err == nil && !there && s.Adoption != (flow.Adoption{}) {
		err = errWordless
	}
	if err != nil {
		s.Cause = err.Error()
	}
	return s
}

// wordsOf reads what is kept beside records, if anything is. On an error the words are nobody's.
func wordsOf(k Keep) (w words, there bool, err error) {
	b, err := k.Words()
	if b == nil || err != nil {
		return words{}, false, err
	}
	if err := json.Unmarshal(b, &w); err != nil {
		return words{}, false, err
	}
	if w.Version != wordsVersion {
		return words{}, false, errVersion
	}
	return w, true, nil
}

// KeptConfig is what a predecessor did, for who has no configuration of its own; the zero Config if there was none.
func KeptConfig(k Keep) (Config, error) {
	w, _, err := wordsOf(k)
	return w.Config, err
}

// adopt makes a record one of our flows, if all that it is about is still there. Servers that the words do not know are none that
// it could be about, even if one has its number by now.
func (e *Engine) adopt(f *flow.Flow, known map[uint32]bool) bool {
	if !e.leadsSomewhere(f, flow.Forward) || !e.leadsSomewhere(f, flow.Reverse) {
		return false
	}
	if f.Gateway() {
		return e.readopt(f)
	}
	srv := e.services.Server(f.Server())
	if srv == nil || !known[srv.ID] || !e.isFor(f, srv) {
		return false
	}
	f.SetClass(e.classOf(srv.Service))
	f.Reclaim()
	if f.AnswersOnly() {
		srv.Hold()
		return true
	}
	srv.Add(f.Active())
	outer := f.Outer()
	client := e.clientOf(&outer)
	srv.Service.Recall(client, srv)
	srv.Opened(client)
	return true
}

// isFor says whether a flow can be one to the server. Where its client has sent it may be no place of the service's any more, but not
// be another's.
func (e *Engine) isFor(f *flow.Flow, srv *policy.Server) bool {
	outer := f.Outer()
	if !srv.Service.ListensAt(outer.Proto, outer.Dst, outer.DstPort) && e.services.Service(outer.Proto, outer.Dst, outer.DstPort) != nil {
		return false
	}
	return f.OneWay() == (srv.Mode == policy.DR) && (f.OneWay() || f.Inner().Dst == srv.Address.Addr().As16())
}

// Succession tells what New has taken over.
func (e *Engine) Succession() Succession { return e.succession }

// Leaving are the servers that no service has any more and whose connections go on: a predecessor may have deleted them.
func (e *Engine) Leaving() (leaving []policy.Known) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, k := range e.services.Known() {
		if srv := e.services.Server(k.ID); srv != nil && srv.Deleted && srv.Keep {
			leaving = append(leaving, k)
		}
	}
	return leaving
}

func (e *Engine) wordsLocked() words {
	return words{wordsVersion, e.exits.names(e.lanes), e.config, e.services.Known(), e.roster.Said()}
}

// remember writes the words if they have changed. What is written is never older than what is there. IDs of servers that the words
// do not have any more are used again from then on.
func (e *Engine) remember() error {
	if e.keep == nil {
		return nil
	}
	e.remembering.Lock()
	defer e.remembering.Unlock()
	e.mu.Lock()
	if !e.forgotten {
		e.mu.Unlock()
		return nil
	}
	e.forgotten = false
	w, released := e.wordsLocked(), e.services.Released()
	e.mu.Unlock()
	b, err := json.Marshal(w)
	if err == nil {
		err = e.keep.SetWords(b)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if err != nil {
		e.forgotten, e.rememberAgain = true, e.now()+wordsPause
		return fmt.Errorf("keep what a successor has to know: %w", err)
	}
	e.services.Reuse(released)
	e.rememberAgain = 0
	return nil
}

// rememberOrLog is remember for those whose own work is done, and stays so. A row of failures is told of once.
func (e *Engine) rememberOrLog() {
	switch err := e.remember(); {
	case err == nil:
		if e.unwritten.Swap(false) {
			e.log.Info().Msg("a successor of this process will know all connections again")
		}
	case !e.unwritten.Swap(true):
		e.log.Error().Err(err).Msg("a successor of this process will not know all connections")
	}
}

// rememberDue is rememberOrLog for the clock: what could not be written waits.
func (e *Engine) rememberDue() {
	e.mu.Lock()
	due := e.now() >= e.rememberAgain
	e.mu.Unlock()
	if due {
		e.rememberOrLog()
	}
}
