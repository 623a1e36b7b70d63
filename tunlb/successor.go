package tunlb

import (
	"encoding/json"
	"fmt"

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

// words is what is kept beside records.
type words struct {
	Ports  []portName // by the number that flows have
	Config Config
	Known  []policy.Known
	Said   []policy.Said
}

type portName struct{ Name, NetNS string }

// Succession says what has become of a predecessor's connections. The zero value is that of nobody's successor.
type Succession struct {
	flow.Adoption
	Cause string // why nothing could be taken over, if there was something; for people
}

// succeed takes over what is in the memory. It is called by New, before the engine's own configuration is applied.
func (e *Engine) succeed() (s Succession) {
	w, err := wordsOf(e.keep)
	if w == nil && err == nil {
		return s
	}
	if err == nil {
		e.services = policy.Recall(w.Known)
		err = e.apply(w.Config, w.Said)
	}
	if err != nil {
		e.services = nil
		e.flows.Adopt(e.tick(), func(*flow.Flow) bool { return false })
		return Succession{Cause: err.Error()}
	}
	exits := e.exitsOf(w.Ports)
	s.Adoption = e.flows.Adopt(e.tick(), func(f *flow.Flow) bool { return e.adopt(f, exits) })
	e.services.Settle()
	return s
}

// wordsOf reads what is kept beside records, nil if nothing is.
func wordsOf(k Keep) (*words, error) {
	b, err := k.Words()
	if b == nil || err != nil {
		return nil, err
	}
	w := &words{}
	return w, json.Unmarshal(b, w)
}

// KeptConfig is what a predecessor did, for who has no configuration of its own; the zero Config if there was none.
func KeptConfig(k Keep) (Config, error) {
	w, err := wordsOf(k)
	if w == nil || err != nil {
		return Config{}, err
	}
	return w.Config, nil
}

// exitsOf says which of our ports has which number in the predecessor's flows.
func (e *Engine) exitsOf(ports []portName) (exits map[uint8]uint8) {
	exits = map[uint8]uint8{exitDirectPort: exitDirectPort}
	for _, l := range e.lanes {
		for i, p := range ports {
			if i < maxPorts && p == (portName{l.Port.Name(), l.NetNS}) {
				exits[uint8(i)] = l.id
			}
		}
	}
	return exits
}

// adopt makes a record one of our flows, if all that it is about is still there. What the predecessor's stack had a part in
// is not.
func (e *Engine) adopt(f *flow.Flow, exits map[uint8]uint8) bool {
	for d := flow.Forward; d <= flow.Reverse; d++ {
		exit, ok := exits[f.Exit(d)]
		if !ok {
			return false
		}
		f.SetExit(d, exit)
	}
	if f.Gateway() {
		return e.readopt(f)
	}
	srv := e.services.Server(f.Server())
	if srv == nil || f.OneWay() != (srv.Mode == policy.DR) || !f.OneWay() && f.Inner().Dst != srv.Address.Addr().As16() {
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

// Succession tells what New has taken over.
func (e *Engine) Succession() Succession { return e.succession }

func (e *Engine) wordsLocked() words {
	w := words{Config: e.config, Known: e.services.Known(), Said: e.roster.Said()}
	for _, l := range e.lanes {
		w.Ports = append(w.Ports, portName{l.Port.Name(), l.NetNS})
	}
	return w
}

// remember writes the words if they have changed. What is written is never older than what is there.
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
	w := e.wordsLocked()
	e.mu.Unlock()
	b, err := json.Marshal(w)
	if err == nil {
		err = e.keep.SetWords(b)
	}
	if err != nil {
		return fmt.Errorf("keep what a successor has to know: %w", err)
	}
	return nil
}

// rememberOrLog is remember for those whose own work is done, and stays so.
func (e *Engine) rememberOrLog() {
	if err := e.remember(); err != nil {
		e.log.Error().Err(err).Msg("a successor of this process will not know all connections")
	}
}
