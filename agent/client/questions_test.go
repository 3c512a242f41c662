package client_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/yamux"

	"github.com/hyper-runtime/hyper/agent/client"
	"github.com/hyper-runtime/hyper/agent/protocol"
)

// dialer returns the guest's end of a session, which can open connections.
func dialer(t *testing.T) (*client.Client, *yamux.Session) {
	t.Helper()
	c, guest := begin(t)
	session, err := yamux.Server(guest, protocol.Mux())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { session.Close() })
	return c, session
}

// ask asks as an agent does.
func ask(session *yamux.Session, q protocol.Question) ([]byte, error) {
	conn, err := session.Open()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := protocol.WriteQuestion(conn, q); err != nil {
		return nil, err
	}
	return protocol.ReadMessage(conn)
}

// echo answers with what it was asked, and nothing to a refused question.
func echo(_ context.Context, resolver int, tcp bool, message []byte) ([]byte, error) {
	if bytes.HasPrefix(message, []byte("refused")) {
		return nil, errors.New("refused")
	}
	return fmt.Appendf(nil, "%d %v %s", resolver, tcp, message), nil
}

func TestQuestions(t *testing.T) {
	c, session := dialer(t)
	if answer, err := ask(session, protocol.Question{Message: []byte("nobody is there")}); err != io.EOF {
		t.Errorf("answer %q, %v, and nobody is there to give it", answer, err)
	}
	c.AnswerQuestions(echo)
	long := strings.Repeat("x", protocol.MaxMessage-len("1 false "))
	tests := []struct {
		question protocol.Question
		answer   string
	}{
		{protocol.Question{TCP: true, Resolver: 3, Message: []byte("who is there")}, "3 true who is there"},
		{protocol.Question{Resolver: 1, Message: []byte(long)}, "1 false " + long},
		{protocol.Question{Message: []byte("refused, as it is")}, ""},
	}
	for _, test := range tests {
		answer, err := ask(session, test.question)
		if string(answer) != test.answer || (test.answer == "") != (err == io.EOF) {
			t.Errorf("answer %.40q, %v, want %.40q", answer, err, test.answer)
		}
	}
	c.AnswerQuestions(nil)
	if answer, err := ask(session, protocol.Question{Message: []byte("nobody is there")}); err != io.EOF {
		t.Errorf("answer %q, %v, and nobody is there any more", answer, err)
	}
}

// As many questions as an agent asks at once are answered, however many rounds of them there are.
func TestManyQuestions(t *testing.T) {
	c, session := dialer(t)
	c.AnswerQuestions(echo)
	var all sync.WaitGroup
	for i := range protocol.MaxQuestions {
		all.Go(func() {
			for range 100 {
				answer, err := ask(session, protocol.Question{Resolver: uint8(i), Message: []byte("who is there")})
				if want := fmt.Sprintf("%d false who is there", i); err != nil || string(answer) != want {
					t.Errorf("answer %q, %v, want %q", answer, err, want)
					return
				}
			}
		})
	}
	all.Wait()
	if err := c.Err(); err != nil {
		t.Error(err)
	}
}

// A guest that asks more at once than an agent does ends its session, whether it waits for the answers or not.
func TestTooManyQuestions(t *testing.T) {
	c, guest := begin(t)
	asked, ended := make(chan struct{}), make(chan struct{})
	c.AnswerQuestions(func(ctx context.Context, _ int, _ bool, _ []byte) ([]byte, error) {
		asked <- struct{}{}
		<-ctx.Done()
		ended <- struct{}{}
		return nil, ctx.Err()
	})
	go io.Copy(io.Discard, guest)
	question := func(i int) string {
		const data, syn, fin, text = 0, 1, 4, "u\x00\x00\x0cwho is there"
		return frame(data, syn|fin, uint32(2*i+2), uint32(len(text)), text)
	}
	for i := range protocol.MaxQuestions {
		io.WriteString(guest, question(i))
		<-asked
	}
	io.WriteString(guest, question(protocol.MaxQuestions))
	<-c.Done()
	if err := c.Err(); err == nil || !strings.Contains(err.Error(), "it opened stream 130, 64 being open") {
		t.Errorf("reason %v", err)
	}
	for range protocol.MaxQuestions { // they end with the session
		<-ended
	}
}

func FuzzQuestions(f *testing.F) {
	f.Add([]byte("u\x00\x00\x0cwho is there"))
	f.Add([]byte("t\x01\xff\xff"))
	f.Fuzz(func(t *testing.T, sent []byte) {
		c, guest := begin(t)
		go io.Copy(io.Discard, guest)
		asked := make(chan []byte, 1)
		c.AnswerQuestions(func(_ context.Context, resolver int, tcp bool, message []byte) ([]byte, error) {
			asked <- append([]byte{map[bool]byte{false: 'u', true: 't'}[tcp], byte(resolver)}, message...)
			return message, nil
		})
		if len(sent) > protocol.MaxMessage {
			return
		}
		io.WriteString(guest, frame(0, 1|4, 2, uint32(len(sent)), string(sent)))
		whole := len(sent) >= 4 && (sent[0] == 'u' || sent[0] == 't') && binary.BigEndian.Uint16(sent[2:]) >= 12 &&
			len(sent)-4 >= int(binary.BigEndian.Uint16(sent[2:]))
		if !whole {
			return
		}
		want := append(sent[:2:2], sent[4:4+binary.BigEndian.Uint16(sent[2:])]...)
		if got := <-asked; !bytes.Equal(got, want) {
			t.Errorf("asked %q, want %q", got, want)
		}
	})
}
