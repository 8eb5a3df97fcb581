// Goroutines, timers, garbage collection, a recovered nil dereference, files and a child process.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

type node struct {
	next *node
	pad  [100]int
}

func nilDereference() (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("recovered: %v", r)
		}
	}()
	var n *node
	n.pad[3] = 1
	return errors.New("not reached")
}

func main() {
	var sum int64
	var group sync.WaitGroup
	for n := 0; n < 1000; n++ {
		group.Add(1)
		go func(n int) {
			defer group.Done()
			if n%100 == 0 {
				time.Sleep(time.Millisecond)
			}
			atomic.AddInt64(&sum, int64(n))
		}(n)
	}
	group.Wait()
	fmt.Println("goroutines:", sum)

	var list *node
	for n := 0; n < 200000; n++ {
		fresh := &node{}
		if n%1000 == 0 {
			fresh.next, list = list, fresh
		}
	}
	runtime.GC()
	length := 0
	for at := list; at != nil; at = at.next {
		length++
	}
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	fmt.Println("list:", length, "collections:", stats.NumGC > 0, "released:", stats.HeapAlloc < 64<<20)

	fmt.Println(nilDereference())

	ticker := time.NewTicker(5 * time.Millisecond)
	for n := 0; n < 3; n++ {
		<-ticker.C
	}
	select {
	case <-time.After(10 * time.Millisecond):
		fmt.Println("timer")
	}

	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	syscall.Kill(os.Getpid(), syscall.SIGUSR1)
	fmt.Println("signal:", <-signals)

	reader, writer, err := os.Pipe()
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	go func() {
		fmt.Fprint(writer, "through a pipe")
		writer.Close()
	}()
	bytes, _ := io.ReadAll(reader)
	fmt.Println("pipe:", string(bytes))

	os.WriteFile("/tmp/go", []byte("content"), 0o644)
	content, err := os.ReadFile("/tmp/go")
	fmt.Println("file:", string(content), err)
	_, err = os.ReadFile("/nonexistent")
	fmt.Println("missing:", err)

	output, err := exec.Command("/bin/busybox", "echo", "from a child").Output()
	fmt.Print("child: ", string(output))
	err = exec.Command("/bin/busybox", "sh", "-c", "exit 7").Run()
	fmt.Println("status:", err)

	deadlock := make(chan int)
	go func() {
		for {
			// Preempted by a signal: there is no call in this loop.
			if atomic.LoadInt64(&sum) == 0 {
				break
			}
		}
		deadlock <- 1
	}()
	time.Sleep(20 * time.Millisecond)
	runtime.GC()
	atomic.StoreInt64(&sum, 0)
	fmt.Println("preempted:", <-deadlock)
	fmt.Println("processors:", runtime.NumCPU())
}
