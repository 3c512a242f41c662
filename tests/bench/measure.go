package main

import (
	"fmt"
	"slices"
	"time"
)

// row is one line, or a few, of the table of times. Its subjects are prepared when the row's turn comes; what has to be
// undone after the row they give to bench.later.
type row struct {
	name    string
	prepare func(*bench) ([]subject, error)
}

// subject is one of the things that a row compares by the time that they take.
type subject = subjectOf[time.Duration]

type subjectOf[T any] struct {
	name   string
	sample func() (T, error)
}

// row measures a row and prints its first subject beside each other one.
func (b *bench) row(r row, rounds int) (err error) {
	defer b.undo(&err)
	subjects, err := r.prepare(b)
	if err != nil {
		return err
	}
	times, err := measure(b, subjects, rounds)
	if err != nil {
		return err
	}
	first := times[0]
	for i, other := range times[1:] {
		fmt.Printf("| %s | %s | %s | %s | %s | %.3g (%.3g) |\n", r.name, subjects[0].name, show(first), subjects[i+1].name, show(other),
			float64(median(first))/float64(median(other)), float64(slices.Min(first))/float64(slices.Min(other)))
	}
	return nil
}

// measure takes the samples of all subjects by turns, so that what disturbs the machine for a while disturbs all alike.
// A first round fills the caches and does not count.
func measure[T any](b *bench, subjects []subjectOf[T], rounds int) ([][]T, error) {
	samples := make([][]T, len(subjects))
	for round := range rounds + 1 {
		for i, s := range subjects {
			if err := b.ctx.Err(); err != nil {
				return nil, err
			}
			sample, err := s.sample()
			if err != nil {
				return nil, fmt.Errorf("%s: %w", s.name, err)
			}
			if round > 0 {
				samples[i] = append(samples[i], sample)
			}
		}
	}
	return samples, nil
}

// median is the middle sample, the upper one of two.
func median[T time.Duration | float64](samples []T) T {
	return slices.Sorted(slices.Values(samples))[len(samples)/2]
}

// show is median and minimum in ms, with three digits.
func show(samples []time.Duration) string {
	ms := func(t time.Duration) string {
		return fmt.Sprintf("%.*f", max(0, min(2, 3-len(fmt.Sprint(t.Milliseconds())))), t.Seconds()*1e3)
	}
	return ms(median(samples)) + " (" + ms(slices.Min(samples)) + ")"
}
