package client

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/hyper-runtime/hyper/agent/protocol"
)

const (
	questionTime = 10 * time.Second // for the guest to send a question after it has opened a connection for it
	answerTime   = 20 * time.Second // for the host's answer; the guest gives up later
)

// Answer answers a DNS message (RFC 1035, 4.1) that a container has sent to the resolver of this index in
// SetNetworkRequest.Resolvers, over TCP or else UDP. message is whatever the container likes, 12 to protocol.MaxMessage
// bytes; so may the answer have. An error means none, and reaches nobody. ctx ends after 20 seconds or with the session.
type Answer func(ctx context.Context, resolver int, tcp bool, message []byte) ([]byte, error)

// AnswerQuestions makes answer answer the questions of containers from now on, protocol.MaxQuestions of them at once at
// most. Before, and with nil, nobody answers.
func (c *Client) AnswerQuestions(answer Answer) { c.answer.Store(&answer) }

// acceptQuestions takes the connections that the guest opens, until the session ends. The guard keeps few of them
// waiting here.
func (c *Client) acceptQuestions() error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	slots := make(chan struct{}, protocol.MaxQuestions)
	for {
		conn, err := c.session.AcceptStream()
		if err != nil {
			return err
		}
		select {
		case slots <- struct{}{}:
		case <-c.done:
			return c.err
		}
		go func() {
			defer func() { <-slots }()
			defer conn.Close()
			message, err := c.answerQuestion(ctx, conn)
			c.frames.release(conn.StreamID())
			if err == nil { // nobody can be told of an error: the guest sees an end without an answer
				_ = protocol.WriteMessage(conn, message)
			}
		}()
	}
}

var errNobody = errors.New("nobody answers questions")

// answerQuestion returns the answer to the question of one connection.
func (c *Client) answerQuestion(ctx context.Context, conn *yamux.Stream) ([]byte, error) {
	answer := c.answer.Load()
	if answer == nil || *answer == nil {
		return nil, errNobody
	}
	if err := conn.SetDeadline(time.Now().Add(questionTime)); err != nil {
		return nil, err
	}
	question, err := protocol.ReadQuestion(conn)
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(answerTime)); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	return (*answer)(ctx, int(question.Resolver), question.TCP, question.Message)
}
