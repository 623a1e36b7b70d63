package control

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"strconv"

	"github.com/tunlb/tunlb/tunlb/capture"
	"github.com/tunlb/tunlb/tunlb/watch"
)

const (
	pcapng      = "application/x-pcapng"
	lostTrailer = "Tunlb-Lost"

	// captureBuffer is what is sent at once while there is more to come.
	captureBuffer = 256 << 10

	// captureMemory is what waits for a capture: bursts of some 4000 packets with a snap of 192.
	captureMemory = 4 << 20
)

// CaptureOptions say what a capture is to have. The zero value is all of every packet.
type CaptureOptions struct {
	Filter watch.Filter
	Side   capture.Side // 0: both
	Snap   int          // bytes of each frame; 0: all
}

// capture streams packets until the client goes away or the daemon ends.
func (a *api) capture(w http.ResponseWriter, r *http.Request) {
	o, err := captureOptions(r)
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	done, ok := a.mayWatch(w, ranked(r))
	if !ok {
		return
	}
	defer done()
	control := http.NewResponseController(w)
	sub := a.d.Watch(watch.Options{
		Filter: o.Filter, Snap: o.Snap, Why: true, Memory: captureMemory, Slots: min(capture.Slots(o.Snap), watch.Room(captureMemory, o.Snap)),
	})
	defer sub.Close()
	w.Header().Set("Content-Type", pcapng)
	w.Header().Set("Trailer", lostTrailer)
	defer func() { w.Header().Set(lostTrailer, strconv.FormatUint(sub.Lost(), 10)) }()
	out := bufio.NewWriterSize(w, captureBuffer)
	flush := func() error {
		if err := out.Flush(); err != nil {
			return err
		}
		return control.Flush()
	}
	file, err := capture.NewWriter(out, capture.Options{Header: captureHeader(a.d.Info().Version), Side: o.Side, Snap: o.Snap})
	if err != nil || flush() != nil { // the client learns that from now on every packet is seen
		return
	}
	if err := capture.Follow(r.Context(), sub, file, flush); err != nil && r.Context().Err() == nil {
		a.log.Debug().Err(err).Msg("capture")
	}
}

// captureHeader is what a file says of who has written it.
func captureHeader(version string) capture.Header {
	return capture.Header{Hardware: runtime.GOARCH, OS: runtime.GOOS, Application: capture.Application + version}
}

func captureOptions(r *http.Request) (o CaptureOptions, err error) {
	q, err := parameters(r, "filter", "side", "snap")
	snap := q.number("snap", capture.MaxSnap, &err)
	if err == nil && (snap < 1 || snap > capture.MaxSnap) {
		err = fmt.Errorf("snap: want a number of bytes from 1 to %d", capture.MaxSnap)
	}
	o.Snap = int(snap)
	if err == nil {
		o.Filter, err = watch.ParseFilter(q.Get("filter"))
	}
	if err == nil && q.Has("side") {
		o.Side, err = capture.ParseSide(q.Get("side"))
	}
	return o, err
}

// Capture starts a capture and returns its stream of pcapng: what passes from then on is in it. Whoever asks closes
// the stream. It ends with io.EOF if the daemon ends, and with an error of ctx.
func (c *Client) Capture(ctx context.Context, o CaptureOptions) (io.ReadCloser, error) {
	q := url.Values{}
	if filter := o.Filter.String(); filter != "" {
		q.Set("filter", filter)
	}
	if o.Side != 0 && o.Side != capture.Both {
		q.Set("side", o.Side.String())
	}
	if o.Snap > 0 {
		q.Set("snap", strconv.Itoa(o.Snap))
	}
	return c.do(ctx, http.MethodGet, "/v1/capture", q, nil)
}
