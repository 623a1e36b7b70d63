package main

import (
	"github.com/rs/zerolog"

	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/flow"
	memory "github.com/tunlb/tunlb/tunlb/keep"
)

// flows is the memory with the connections: the predecessor's, or a new one. Nil where the system has no such memory.
func (h *heritage) flows() *memory.Memory {
	if h.store == nil {
		return nil
	}
	if fd, ok := h.take(keptFlows); ok {
		m, err := memory.Open(fd, flow.Format())
		if err == nil {
			h.leave(keptFlows, m.Descriptor())
			return m
		}
		closeDescriptor(fd)
		h.refused(keptFlows, err)
	}
	m, err := memory.Create(flow.Format())
	if err != nil {
		h.log.Warn().Err(err).Msg("connections will not outlive this process")
		return nil
	}
	h.leave(keptFlows, m.Descriptor())
	return m
}

// resume goes on with the services of a predecessor's: those that ipvsadm has added are in no file.
func (d *daemon) resume() {
	before, err := tunlb.KeptConfig(d.flows)
	if err != nil {
		d.log.Warn().Err(err).Msg("what ipvsadm had added is not known any more")
		return
	}
	if before.Services != nil {
		d.cfg.Services, d.cfg.Timeouts = before.Services, before.Timeouts
	}
}

// tellSuccession logs what has become of a predecessor's connections.
func tellSuccession(log zerolog.Logger, s tunlb.Succession) {
	switch {
	case s.Cause != "":
		log.Warn().Msgf("a predecessor's connections end: %s", s.Cause)
	case s.Adopted+s.Refused+s.Damaged+s.Late > 0:
		log.Info().Int("over", s.Late).Int("refused", s.Refused).Int("damaged", s.Damaged).
			Msgf("%s of a predecessor's go on", count(s.Adopted, "connection"))
	}
}
