package client

import (
	"context"
	"errors"
	"strings"
	"unicode/utf8"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Error is the agent's refusal of a call, in one printable line. status.Code(err) gives its code: NotFound for what
// there is not, FailedPrecondition for the wrong state, AlreadyExists, InvalidArgument, Unknown for what the OCI
// runtime in the guest refused.
type Error struct {
	Code    codes.Code
	Message string
}

func (e *Error) Error() string { return e.Message }

// GRPCStatus lets package status see the code.
func (e *Error) GRPCStatus() *status.Status { return status.New(e.Code, e.Message) }

// call makes every call end with its context or the session, whatever the guest does. A call that was given up stays
// known to ttrpc, so that a late answer is one to a known question.
func (c *Client) call(ctx context.Context, request *ttrpc.Request, response *ttrpc.Response, _ *ttrpc.UnaryClientInfo, invoke ttrpc.Invoker) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	answered := make(chan error, 1)
	answer := &ttrpc.Response{}
	go func() { answered <- invoke(context.WithoutCancel(ctx), request, answer) }()
	select {
	case err := <-answered:
		if err != nil {
			return c.broken(err)
		}
		if s := status.FromProto(answer.Status); s.Code() != codes.OK {
			return &Error{Code: s.Code(), Message: printable(s.Message())}
		}
		response.Payload = answer.Payload
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-c.done:
		return c.err
	}
}

// broken returns the reason that the session ended for, where there is one, instead of what a call saw of it.
func (c *Client) broken(err error) error {
	if errors.Is(err, ttrpc.ErrClosed) {
		<-c.done
	}
	if reason := c.Err(); reason != nil {
		return reason
	}
	return err
}

// maxMessage bounds the text of a guest's error, in bytes.
const maxMessage = 4096

// printable makes one line of a guest's text: no control characters, valid UTF-8, maxMessage bytes at most.
func printable(s string) string {
	if len(s) > maxMessage {
		s = s[:maxMessage]
	}
	s = strings.Map(func(r rune) rune {
		if r < ' ' || 0x7f <= r && r < 0xa0 || r == utf8.RuneError || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, s)
	return strings.TrimSpace(s)
}
