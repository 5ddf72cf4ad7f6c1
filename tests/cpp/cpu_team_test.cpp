// The fork-join team: every item once, errors, rest.
#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <stdexcept>
#include <thread>
#include <vector>

#include "cpu/team.h"

using namespace specrt::cpu;

namespace {

constexpr int64_t kLarge = int64_t{1} << 30;  // bytes that are worth a fork

double process_seconds() {
  timespec time;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

}  // namespace

TEST_CASE("a team does every item once") {
  for (const int size : {1, 2, 3, 4}) {
    Team team(size);
    CHECK(team.size() == size);
    for (int round = 0; round < 2000; ++round) {
      const int count = round % 37;
      std::array<int, 37> done{};
      team.parallel(count, kLarge, [&](int item, int member) {
        CHECK(member < size);
        ++done[static_cast<size_t>(item)];
      });
      for (int item = 0; item < count; ++item) REQUIRE(done[static_cast<size_t>(item)] == 1);
    }
  }
}

TEST_CASE("jobs of a team follow each other") {
  Team team(3);
  std::vector<int64_t> values(64, 0);
  for (int round = 1; round <= 5000; ++round) {
    team.parallel(64, kLarge, [&](int item, int) {
      int64_t& value = values[static_cast<size_t>(item)];
      if (value == round - 1) value = round;
    });
  }
  for (const int64_t value : values) CHECK(value == 5000);
}

TEST_CASE("small jobs stay on the caller") {
  Team team(2);
  team.parallel(8, 100, [](int, int member) { CHECK(member == 0); });
}

TEST_CASE("an error in an item reaches the caller, and the team works on") {
  Team team(3);
  for (int round = 0; round < 200; ++round) {
    CHECK_THROWS_AS(team.parallel(20, kLarge,
                                  [&](int item, int) {
                                    if (item == round % 20) throw std::runtime_error("item");
                                  }),
                    std::runtime_error);
    std::atomic<int> done{0};
    team.parallel(20, kLarge, [&](int, int) { ++done; });
    REQUIRE(done == 20);
  }
}

TEST_CASE("scratch memory belongs to one member") {
  Team team(4);
  std::atomic<int> wrong{0};
  team.parallel(400, kLarge, [&](int item, int member) {
    const size_t bytes = static_cast<size_t>(item) * 10 + 1;
    std::byte* memory = team.scratch(member, bytes);
    if (reinterpret_cast<uintptr_t>(memory) % 64 != 0) ++wrong;
    std::memset(memory, item, bytes);
    std::this_thread::yield();
    for (size_t i = 0; i < bytes; ++i) {
      if (memory[i] != static_cast<std::byte>(item)) ++wrong;
    }
  });
  CHECK(wrong == 0);
}

TEST_CASE("teams come and go") {
  for (int round = 0; round < 200; ++round) {
    Team team(4);
    if (round % 2 == 0) team.parallel(4, kLarge, [](int, int) {});
  }
}

TEST_CASE("an idle team sleeps") {
  Team team(4);
  team.parallel(16, kLarge, [](int, int) {});
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const double before = process_seconds();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  CHECK(process_seconds() - before < 0.03);
}
