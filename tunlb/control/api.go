package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/rs/zerolog"

	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/gate"
)

// api answers for a daemon; docs/openapi.yaml describes all of it.
type api struct {
	d        Daemon
	log      zerolog.Logger
	conns    func() gate.Counts // to the socket
	answers  byRank             // that are in memory as a whole
	reloads  turns              // one at a time: a file takes a hundred times its size to be read
	watchers atomic.Int32       // traces and captures
}

// routes is every call there is, by path and method.
func (a *api) routes() map[string]map[string]http.HandlerFunc {
	return map[string]map[string]http.HandlerFunc{
		"/v1/status":  {http.MethodGet: a.whole(a.status)},
		"/v1/conns":   {http.MethodGet: a.list, http.MethodDelete: a.kill},
		"/v1/events":  {http.MethodGet: a.events},
		"/v1/trace":   {http.MethodGet: a.trace},
		"/v1/capture": {http.MethodGet: a.capture},
		"/v1/explain": {http.MethodPost: a.whole(a.explain)},
		"/v1/servers": {http.MethodPost: a.order},
		"/v1/reload":  {http.MethodPost: a.reload},
		"/v1/upgrade": {http.MethodPost: a.upgrade},
		"/v1/ipvs":    {http.MethodGet: a.whole(a.lvsTable), http.MethodPost: a.lvsCommand},
	}
}

// newHandler is the API. http.ServeMux would find the calls as well, but refuses in plain text.
func newHandler(d Daemon, log zerolog.Logger, conns func() gate.Counts) http.Handler {
	routes := (&api{d: d, log: log, conns: conns, answers: newByRank(answersAtATime), reloads: make(turns, 1)}).routes()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		methods, ok := routes[r.URL.Path]
		if !ok {
			fail(w, http.StatusNotFound, fmt.Errorf("there is no %s; docs/api.md lists what there is", r.URL.Path))
			return
		}
		serve, ok := methods[r.Method]
		if !ok {
			allowed := make([]string, 0, len(methods))
			for m := range methods {
				allowed = append(allowed, m)
			}
			slices.Sort(allowed)
			w.Header().Set("Allow", strings.Join(allowed, ", "))
			fail(w, http.StatusMethodNotAllowed, fmt.Errorf("%s does not go with %s; %s does", r.Method, r.URL.Path, strings.Join(allowed, " or ")))
			return
		}
		serve(w, r)
	})
}

func (a *api) status(w http.ResponseWriter, r *http.Request) {
	if _, err := parameters(r); err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	reply(w, http.StatusOK, Status{Daemon: a.d.Info(), Control: a.conns(), Status: a.d.Status()})
}

func (a *api) reload(w http.ResponseWriter, r *http.Request) {
	q, err := parameters(r, "dry_run")
	dryRun := q.is("dry_run", &err)
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	done, err := a.reloads.take(r.Context(), turnTime)
	if err != nil {
		fail(w, http.StatusServiceUnavailable, err)
		return
	}
	result := a.d.Reload(r.Context(), dryRun)
	done()
	result.DryRun = dryRun
	if result.Changes == nil {
		result.Changes = []string{}
	}
	code := http.StatusOK
	if len(result.Errors) > 0 {
		code = http.StatusUnprocessableEntity
	}
	if !dryRun {
		var err error
		if len(result.Errors) > 0 {
			err = errors.New(result.Errors[0])
		}
		Items(a.changed(r, err), "changes", result.Changes).Msg("reload asked for on the control socket")
	}
	reply(w, code, result)
}

// orderBody is a tunlb.ServerOrder whose weight is told apart from none: a forgotten one would quiesce.
type orderBody struct {
	Service string `json:"service,omitempty"`
	Server  string `json:"server"`
	Do      string `json:"do"`
	Weight  *int   `json:"weight,omitempty"`
}

func (b *orderBody) order() (o tunlb.ServerOrder, err error) {
	o = tunlb.ServerOrder{Service: b.Service, Server: b.Server, Do: b.Do}
	switch isWeight := b.Do == "weight"; {
	case b.Server == "":
		return o, errors.New("server: want a server's name, address, or address and port")
	case !isWeight && b.Do != "drain" && b.Do != "undrain":
		return o, fmt.Errorf("do: %q: want drain, undrain or weight", b.Do)
	case isWeight && (b.Weight == nil || *b.Weight < 0 || *b.Weight > math.MaxInt32):
		return o, fmt.Errorf("weight: want a number from 0 to %d", math.MaxInt32)
	case !isWeight && b.Weight != nil:
		return o, fmt.Errorf("weight: goes with do: weight, not with %s", b.Do)
	case isWeight:
		o.Weight = *b.Weight
	}
	return o, nil
}

func (a *api) order(w http.ResponseWriter, r *http.Request) {
	var body orderBody
	_, err := parameters(r)
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	if !decode(w, r, &body) {
		return
	}
	order, err := body.order()
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	events, err := a.d.Order(order)
	a.changed(r, err).Str("service", order.Service).Str("server", order.Server).Str("do", order.Do).Int("weight", order.Weight).
		Int("changes", len(events)).Msg("order given on the control socket")
	if err != nil {
		code := statusOf(err)
		if code != http.StatusNotFound {
			code = http.StatusConflict // such as a name that several servers have
		}
		fail(w, code, err)
		return
	}
	if events == nil {
		events = []tunlb.Event{}
	}
	reply(w, http.StatusOK, OrderResult{events})
}

// decode reads a body strictly, or answers itself.
func decode(w http.ResponseWriter, r *http.Request, into any) bool {
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBodyBytes))
	dec.DisallowUnknownFields()
	err := dec.Decode(into)
	if err == nil {
		if _, err = dec.Token(); err == io.EOF {
			return true
		}
		err = errors.Join(errors.New("more than one value"), err)
	}
	var tooLong *http.MaxBytesError
	switch {
	case errors.As(err, &tooLong):
		fail(w, http.StatusRequestEntityTooLarge, fmt.Errorf("the body is longer than %d bytes", maxBodyBytes))
	case errors.Is(err, os.ErrDeadlineExceeded):
		fail(w, http.StatusRequestTimeout, fmt.Errorf("the body was not there within %v", headerTimeout))
	default:
		fail(w, http.StatusBadRequest, fmt.Errorf("the body is not what docs/openapi.yaml asks for: %w", err))
	}
	return false
}

// statusOf is what HTTP says to an engine's error.
func statusOf(err error) int {
	if errors.Is(err, tunlb.ErrNoService) || errors.Is(err, tunlb.ErrNoServer) || errors.Is(err, tunlb.ErrNoConn) {
		return http.StatusNotFound
	}
	return http.StatusInternalServerError
}

func fail(w http.ResponseWriter, code int, err error) { reply(w, code, &Error{Message: err.Error()}) }

func reply(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	// The client is gone if this fails, and there is nobody else to tell.
	_ = json.NewEncoder(w).Encode(body)
}
