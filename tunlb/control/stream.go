package control

import (
	"encoding/json"
	"errors"
	"net/http"

	"github.com/tunlb/tunlb/tunlb"
)

// ndjson is one JSON object a line, so that neither side holds them all.
const ndjson = "application/x-ndjson"

func (a *api) list(w http.ResponseWriter, r *http.Request) {
	q, err := parameters(r, filterParameters("limit")...)
	filter, limit := q.filter(&err), q.number("limit", -1, &err)
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	w.Header().Set("Content-Type", ndjson)
	enc := json.NewEncoder(w)
	if limit == 0 {
		return
	}
	a.d.Conns(filter, func(c tunlb.Conn) bool {
		limit--
		return enc.Encode(Conn{c.ID(), c}) == nil && limit != 0
	})
}

// kill ends the one connection that is named, or all that a filter takes.
func (a *api) kill(w http.ResponseWriter, r *http.Request) {
	q, err := parameters(r, filterParameters("id")...)
	filter := q.filter(&err)
	switch {
	case err != nil:
	case q.Has("id") && len(q.Values) > 1:
		err = errors.New("id: names one connection; service, server and client are for others")
	case !q.Has("id") && !q.Has("service") && !q.Has("server") && !q.Has("client"):
		err = errors.New("which? want id, or service, server or client for all that match")
	}
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	killed := 0
	if id := q.Get("id"); id != "" {
		if err = a.d.Kill(id); err == nil {
			killed++
		}
	} else {
		a.d.Conns(filter, func(c tunlb.Conn) bool {
			if c.Check { // to end a check would say nothing of the server, but count against it
				return true
			}
			switch err = a.d.Kill(c.ID()); {
			case err == nil:
				killed++
			case errors.Is(err, tunlb.ErrNoConn): // it has ended by itself
				err = nil
			}
			return err == nil && r.Context().Err() == nil
		})
	}
	without := err
	if killed > 0 {
		without = nil // something has changed before it
	}
	a.changed(r, without).Str("query", r.URL.RawQuery).Int("killed", killed).Msg("kill asked for on the control socket")
	if err != nil {
		fail(w, statusOf(err), err)
		return
	}
	reply(w, http.StatusOK, KillResult{killed})
}

// events ends with what is remembered, or with follow when the client goes away or the daemon ends.
func (a *api) events(w http.ResponseWriter, r *http.Request) {
	q, err := parameters(r, "since", "follow")
	since, follow := q.number("since", 0, &err), q.is("follow", &err)
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	w.Header().Set("Content-Type", ndjson)
	control := http.NewResponseController(w)
	if follow && control.Flush() != nil { // the client learns that it follows before there is anything to tell
		return
	}
	enc := json.NewEncoder(w)
	a.d.Events(r.Context(), uint64(since), follow, func(ev tunlb.Event) bool {
		return enc.Encode(ev) == nil && (!follow || control.Flush() == nil)
	})
}
