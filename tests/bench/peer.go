package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"time"
)

// A peer is this program in a container or a VM. It connects to the benchmark, which has it measure the network to the
// namespace that the benchmark's servers are in.

// peerMode is the first argument of a peer, and the address of the benchmark the second.
const peerMode = "peer"

// The ports of the servers: the benchmark's own for peers, that of its echo over TCP and UDP, and iperf3's.
const (
	peerPort  = "7000"
	echoPort  = "7001"
	iperfPort = "7002"
)

// How long a measurement takes: that of a throughput, and that of requests.
const (
	iperfSeconds = "2"
	echoTime     = time.Second
)

// order is what the benchmark asks of a peer, answer what it gets.
type order struct{ Test string }

type answer struct {
	Rate  float64
	Error string
}

// peerTests measure the network to a server's IP: Mbit/s, or requests per second.
var peerTests = map[string]func(ip string) (float64, error){
	"iperf3 out": func(ip string) (float64, error) { return iperf(ip) },
	"iperf3 in":  func(ip string) (float64, error) { return iperf(ip, "--reverse") },
	"tcp":        func(ip string) (float64, error) { return requests("tcp", ip) },
	"udp":        func(ip string) (float64, error) { return requests("udp", ip) },
}

// servePeer does what the benchmark at that IP orders, until it hangs up.
func servePeer(ip string) error {
	conn, err := net.Dial("tcp", net.JoinHostPort(ip, peerPort))
	if err != nil {
		return err
	}
	defer conn.Close()
	orders, answers := json.NewDecoder(conn), json.NewEncoder(conn)
	for {
		var o order
		if orders.Decode(&o) != nil {
			return nil
		}
		var a answer
		if a.Rate, err = peerTests[o.Test](ip); err != nil {
			a.Error = err.Error()
		}
		if err := answers.Encode(a); err != nil {
			return err
		}
	}
}

// iperf returns the Mbit/s that the receiver has seen.
func iperf(ip string, args ...string) (float64, error) {
	cmd := exec.Command("iperf3", append([]string{"--client", ip, "--port", iperfPort, "--time", iperfSeconds, "--json"}, args...)...)
	text, err := cmd.Output()
	var report struct {
		Error string
		End   struct {
			Received struct {
				Rate float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
	}
	if e := json.Unmarshal(text, &report); e != nil {
		return 0, errors.Join(err, fmt.Errorf("read iperf3's report: %w", e))
	}
	if err != nil {
		return 0, fmt.Errorf("iperf3: %w: %s", err, report.Error)
	}
	return report.End.Received.Rate / 1e6, nil
}

// requests returns how many bytes go there and come back one after the other in a second.
func requests(network, ip string) (float64, error) {
	conn, err := net.Dial(network, net.JoinHostPort(ip, echoPort))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	begin := time.Now()
	if err := conn.SetDeadline(begin.Add(echoTime)); err != nil {
		return 0, err
	}
	var one [1]byte
	for n := 0.0; ; n++ {
		if _, err = conn.Write(one[:]); err == nil {
			_, err = conn.Read(one[:])
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && n > 0:
			return n / time.Since(begin).Seconds(), nil
		case err != nil:
			return 0, err
		}
	}
}

// startEcho starts the server of requests in the namespace, until the row's end.
func (b *bench) startEcho(n *namespace) error {
	return n.do(func() error {
		listener, err := net.Listen("tcp4", ":"+echoPort)
		if err != nil {
			return err
		}
		b.later(listener.Close)
		packets, err := net.ListenPacket("udp4", ":"+echoPort)
		if err != nil {
			return err
		}
		b.later(packets.Close)
		go func() {
			var one [1]byte
			for {
				_, from, err := packets.ReadFrom(one[:])
				if err != nil {
					return
				}
				_, _ = packets.WriteTo(one[:], from) // who asked may be gone
			}
		}()
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				go echo(conn)
			}
		}()
		return nil
	})
}

func echo(conn net.Conn) {
	defer conn.Close()
	var one [1]byte
	for {
		if _, err := conn.Read(one[:]); err != nil {
			return
		}
		if _, err := conn.Write(one[:]); err != nil {
			return
		}
	}
}

// peerTime bounds the wait for a peer against hanging: to come up, and to answer.
const peerTime = time.Minute

// peer is the benchmark's end of a peer.
type peer struct {
	b    *bench
	w    wire
	conn net.Conn
}

// newPeer has start start the peer of a wire, and waits until it has come up. The row's end hangs up.
func (b *bench) newPeer(w wire, start func() error) (p *peer, err error) {
	var listener net.Listener
	err = w.far.do(func() (err error) {
		listener, err = net.Listen("tcp4", net.JoinHostPort(w.farIP(), peerPort))
		return err
	})
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	if err := start(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(b.ctx, peerTime)
	defer cancel()
	defer context.AfterFunc(ctx, func() { listener.Close() })()
	conn, err := listener.Accept()
	if err != nil {
		return nil, fmt.Errorf("wait for the peer: %w", errors.Join(err, ctx.Err()))
	}
	b.later(conn.Close)
	return &peer{b, w, conn}, nil
}

// ask has the peer run a test.
func (p *peer) ask(test string) (float64, error) {
	ctx, cancel := context.WithTimeout(p.b.ctx, peerTime)
	defer cancel()
	defer context.AfterFunc(ctx, func() { p.conn.SetDeadline(time.Unix(1, 0)) })()
	if err := json.NewEncoder(p.conn).Encode(order{test}); err != nil {
		return 0, fmt.Errorf("ask the peer: %w", err)
	}
	var a answer
	if err := json.NewDecoder(p.conn).Decode(&a); err != nil {
		return 0, fmt.Errorf("ask the peer: %w", errors.Join(err, ctx.Err()))
	}
	if a.Error != "" {
		return 0, errors.New(a.Error)
	}
	return a.Rate, nil
}
