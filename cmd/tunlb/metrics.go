package main

import (
	"errors"
	"net/netip"
	"sync"

	"github.com/rs/zerolog"

	"github.com/tunlb/tunlb/tunlb/config"
	"github.com/tunlb/tunlb/tunlb/gate"
	"github.com/tunlb/tunlb/tunlb/metrics"
)

// metricsEndpoint is where the daemon's metrics are to be had, if the file wants that anywhere. A reload may move it.
type metricsEndpoint struct {
	log     zerolog.Logger
	source  metrics.Source
	options metrics.Options // but for the number of servers, which is the file's

	mu      sync.Mutex
	at      config.Metrics
	current *metrics.Endpoint // nil: nowhere
	serving sync.WaitGroup
}

// follow serves where the file says. On an error it goes on where it was.
func (e *metricsEndpoint) follow(at config.Metrics) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if at == e.at {
		return nil
	}
	old := e.at
	if samePlace(old.Listen, at.Listen) { // the one would be in the other's way
		if err := e.closeLocked(); err != nil {
			return err
		}
	}
	next, err := e.listen(at)
	if err != nil {
		if e.current == nil {
			var back error
			if e.current, back = e.listen(old); back != nil {
				e.at = config.Metrics{}
			}
			return errors.Join(err, back)
		}
		return err
	}
	err = e.closeLocked()
	e.at, e.current = at, next
	if next != nil {
		e.log.Info().Str("listen", next.Address()).Msg("metrics are served")
	}
	return err
}

// listen opens an endpoint and serves it until it is closed; nil if there is to be none.
func (e *metricsEndpoint) listen(at config.Metrics) (*metrics.Endpoint, error) {
	if at.Listen == "" {
		return nil, nil
	}
	options := e.options
	options.MaxServers, options.Scrape = at.MaxServers, e.counts
	next, err := metrics.Listen(at.Listen, metrics.NewHandler(e.source, options))
	if err != nil {
		return nil, err
	}
	e.serving.Go(func() {
		if err := next.Serve(); err != nil {
			e.log.Error().Err(err).Msg("metrics are no longer served")
		}
	})
	return next, nil
}

// counts is of the endpoint that there is now.
func (e *metricsEndpoint) counts() gate.Counts {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.current == nil {
		return gate.Counts{}
	}
	return e.current.Counts()
}

func (e *metricsEndpoint) closeLocked() error {
	if e.current == nil {
		return nil
	}
	err := e.current.Close()
	e.current = nil
	return err
}

// close ends it, and waits for that.
func (e *metricsEndpoint) close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	err := e.closeLocked()
	e.at = config.Metrics{}
	e.serving.Wait()
	return err
}

// samePlace says whether two endpoints cannot be open at once: of one port, an address may include the other.
func samePlace(a, b string) bool {
	if a == b {
		return true
	}
	x, errX := netip.ParseAddrPort(a)
	y, errY := netip.ParseAddrPort(b)
	return errX == nil && errY == nil && x.Port() == y.Port()
}
