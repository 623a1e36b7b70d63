package control

import (
	"context"
	"errors"
	"net/http"

	"github.com/tunlb/tunlb/tunlb"
)

// explain asks which server a client would get. It is a POST for its body: nothing is changed.
func (a *api) explain(w http.ResponseWriter, r *http.Request) {
	var q tunlb.Question
	if _, err := parameters(r); err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	if !decode(w, r, &q) {
		return
	}
	x, err := a.d.Explain(q)
	switch {
	case errors.Is(err, tunlb.ErrQuestion):
		fail(w, http.StatusBadRequest, err)
	case err != nil:
		fail(w, statusOf(err), err)
	default:
		reply(w, http.StatusOK, x)
	}
}

// Explain asks which server a client would get, and why.
func (c *Client) Explain(ctx context.Context, q tunlb.Question) (tunlb.Explanation, error) {
	var x tunlb.Explanation
	return x, c.call(ctx, http.MethodPost, "/v1/explain", nil, &q, &x)
}
