#include "tensorrt/fields.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

namespace maskline {

namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;

[[noreturn]] void refuse(std::string const& name, std::string const& fault)
{
    throw std::invalid_argument("attribute " + name + " " + fault);
}

PluginField const* find_field(PluginFieldCollection const& fields, char const* name)
{
    PluginField const* const end = fields.fields + fields.nbFields;
    PluginField const* const found = std::find_if(fields.fields, end,
        [name](PluginField const& field) { return field.name != nullptr && std::strcmp(field.name, name) == 0; });
    return found == end ? nullptr : found;
}

PluginFieldCollection const& required(PluginFieldCollection const* fields)
{
    if (fields == nullptr) {
        throw std::invalid_argument("no attributes were given");
    }
    return *fields;
}

}  // namespace

FieldReader::FieldReader(PluginFieldCollection const* fields) : fields_(required(fields)) {}

int32_t FieldReader::integer(char const* name, int32_t least) const
{
    int32_t const value = *static_cast<int32_t const*>(find(name, PluginFieldType::kINT32).data);
    if (value < least) {
        refuse(name, "must be at least " + std::to_string(least) + ", not " + std::to_string(value));
    }
    return value;
}

int32_t FieldReader::integer_or(char const* name, int32_t least, int32_t absent) const
{
    return has(name) ? integer(name, least) : absent;
}

int32_t FieldReader::flag(char const* name) const
{
    int32_t const value = integer(name, 0);
    if (value > 1) {
        refuse(name, "must be 0 or 1, not " + std::to_string(value));
    }
    return value;
}

float FieldReader::real(char const* name) const
{
    float const value = *static_cast<float const*>(find(name, PluginFieldType::kFLOAT32).data);
    if (std::isnan(value)) {
        refuse(name, "must be a number, not NaN");
    }
    return value;
}

std::string FieldReader::text(char const* name) const
{
    PluginField const& field = find(name, PluginFieldType::kCHAR);
    char const* const first = static_cast<char const*>(field.data);
    // Some callers count the terminating zero as a character, some do not.
    return std::string(first, std::find(first, first + field.length, '\0'));
}

bool FieldReader::has(char const* name) const
{
    return find_field(fields_, name) != nullptr;
}

PluginField const& FieldReader::find(char const* name, PluginFieldType type) const
{
    PluginField const* const field = find_field(fields_, name);
    if (field == nullptr) {
        refuse(name, "is missing: it must stand on the ONNX node");
    }
    bool const single = field->length == 1 || (type == PluginFieldType::kCHAR && field->length > 0);
    if (field->type != type || field->data == nullptr || !single) {
        refuse(name, "has a wrong type or length");
    }
    return *field;
}

PluginField integer_field(char const* name, int32_t const& value)
{
    return {name, &value, PluginFieldType::kINT32, 1};
}

PluginField real_field(char const* name, float const& value)
{
    return {name, &value, PluginFieldType::kFLOAT32, 1};
}

PluginField text_field(char const* name, std::string const& value)
{
    return {name, value.data(), PluginFieldType::kCHAR, static_cast<int32_t>(value.size())};
}

}  // namespace maskline
