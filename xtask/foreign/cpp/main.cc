// Exceptions across frames and threads, futures, condition variables, and a child process.
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <future>
#include <iostream>
#include <map>
#include <mutex>
#include <regex>
#include <stdexcept>
#include <thread>
#include <vector>

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

struct Guard {
    int &count;
    ~Guard() { ++count; }
};

static int depth(int n, int &unwound) {
    Guard guard{unwound};
    if (n == 0) throw std::runtime_error("deep");
    return depth(n - 1, unwound) + 1;
}

int main() {
    int unwound = 0;
    try {
        depth(50, unwound);
    } catch (const std::exception &error) {
        std::cout << "caught: " << error.what() << ", unwound " << unwound << '\n';
    }
    auto future = std::async(std::launch::async, []() -> int { throw std::out_of_range("in a thread"); });
    try {
        future.get();
    } catch (const std::out_of_range &error) {
        std::cout << "future: " << error.what() << '\n';
    }

    std::mutex mutex;
    std::condition_variable ready;
    int turn = 0;
    std::vector<std::thread> threads;
    std::atomic<long> sum{0};
    for (int n = 0; n < 8; n++) {
        threads.emplace_back([&, n] {
            std::unique_lock lock(mutex);
            ready.wait(lock, [&] { return turn == n; });
            ++turn;
            sum += n;
            ready.notify_all();
        });
    }
    for (auto &thread : threads) thread.join();
    std::cout << "threads: " << sum << '\n';

    std::timed_mutex timed;
    timed.lock();
    std::thread waiter([&] {
        std::cout << "timed lock: " << timed.try_lock_for(std::chrono::milliseconds(20)) << '\n';
    });
    waiter.join();
    timed.unlock();

    thread_local std::map<std::string, int> words;
    std::smatch match;
    std::string text = "alpha 12, beta 34";
    std::regex pattern("([a-z]+) ([0-9]+)");
    for (auto at = text.cbegin(); std::regex_search(at, text.cend(), match, pattern); at = match[0].second)
        words[match[1]] = std::stoi(match[2]);
    std::cout << "words: " << words["alpha"] + words["beta"] << std::endl;

    pid_t child;
    char *arguments[] = {(char *)"busybox", (char *)"echo", (char *)"from a child", nullptr};
    int error = posix_spawn(&child, "/bin/busybox", nullptr, nullptr, arguments, environ);
    int status = -1;
    waitpid(child, &status, 0);
    std::cout << "spawn: " << error << ' ' << WEXITSTATUS(status) << '\n';
    if (pid_t forked = fork(); forked == 0) {
        throw 7;
    } else {
        waitpid(forked, &status, 0);
        std::cout << "terminate: signal " << (WIFSIGNALED(status) ? WTERMSIG(status) : 0) << '\n';
    }
    std::vector<std::unique_ptr<char[]>> blocks;
    for (int n = 0; n < 64; n++) {
        blocks.emplace_back(new char[1 << 20]);
        memset(blocks.back().get(), n, 1 << 20);
    }
    std::cout << "heap: " << int(blocks[63][77777]) << '\n';
}
